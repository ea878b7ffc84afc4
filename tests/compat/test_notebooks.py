"""The notebooks run from nothing, and what they print is what their text promises."""

import json
from pathlib import Path
from typing import Any

import pytest
from other_docs import ROOT, run

NOTEBOOKS = ROOT / "docs" / "notebooks"
PRINTED = {
    "laptop-quickstart": ["reference", "2 of 4 blocks", "random", "The following", "index.html"],
    "analysis": ["block 0  MaxRank", "block 3  MaxRank", "dropped", "parameters, in"],
    "compare": ["random", "first blocks", "both ends", "stacking", "index.html"],
}


def test_all_are_here_and_without_outputs() -> None:
    found = sorted(NOTEBOOKS.glob("*.ipynb"))
    assert sorted(PRINTED) == [file.stem for file in found]
    for file in found:
        assert not any(cell.get("outputs") for cell in json.loads(file.read_text(encoding="utf-8"))["cells"])


@pytest.mark.long
@pytest.mark.parametrize("name", PRINTED)
def test_it_runs(name: str, tmp_path: Path) -> None:
    words = ["-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", tmp_path, NOTEBOOKS / f"{name}.ipynb"]
    run(*words, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT / "src"), IPYTHONDIR=str(tmp_path / "ipython"))
    cells: list[dict[str, Any]] = json.loads((tmp_path / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    printed = "".join(
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", [])
        if output["output_type"] == "stream" and output["name"] == "stdout"
    )
    assert all(words in printed for words in PRINTED[name]), printed
