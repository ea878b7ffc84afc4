"""`benchmarks/shapes.py` from end to end, on a tiny reference: the table, and the same one from what is there."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.long
def test_the_table_of_both_arms(
    text: Path, reference_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for name in ("recovery", "shapes"):  # tests have modules of these names too
        monkeypatch.delitem(sys.modules, name, raising=False)
    recovery, shapes = importlib.import_module("recovery"), importlib.import_module("shapes")
    monkeypatch.setattr(recovery, "LENGTH", 16)
    monkeypatch.setattr(recovery, "VALIDATION", 640)
    words = [str(reference_folder), str(text), "--size", "0.7", "--tokens", "1600", "--out", str(tmp_path)]
    shapes.main([*words, "--choose", "first"])
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    assert [row[0] for row in rows[:5]] == ["arm", "---", "reference", "depth", "auto"]
    assert rows[3][-1] == ""
    assert float(rows[4][-1].split()[0]) == pytest.approx(float(rows[4][5][:6]) - float(rows[3][5][:6]), abs=2e-4)
    assert any(row[-1].endswith("chosen") for row in rows[5:])
    shapes.main([*words, "--choose", "first", "--table"])
    assert capsys.readouterr().out == printed
