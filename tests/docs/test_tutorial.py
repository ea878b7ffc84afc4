"""Every command of docs/laptop.md, as it is written there, in a folder whose recipes/demo.yaml is a smaller one."""

from pathlib import Path

import pytest
import yaml
from doc_pages import blocks_of, commands_of

from conftest import make_text
from inheritune.cli import main

ROOT = Path(__file__).parents[2]
TINY = {
    "base": str(ROOT / "recipes" / "demo.yaml"),
    "reference": {
        "train": {
            "model": {"n_layer": 3, "n_embd": 16, "n_head": 2},
            "tokenizer": {"vocabulary": 300},
            "length": "8 steps",
        }
    },
    "data": {"sources": [{"path": "text"}], "validation": "3K tokens"},
    "train": {"length": "6 steps"},
    "grow": {"until": "max_layers", "max_layers": 3},
    "evaluate": {"sequences": 8, "every": "4 steps"},
}


@pytest.mark.long
def test_the_laptop_tutorial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_text(tmp_path / "text")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "demo.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    done = []
    for block in blocks_of(ROOT / "docs" / "laptop.md"):
        if block.language == "python":
            exec(block.text, {})
            continue
        for command in commands_of(block):
            if command.words[0] == "inheritune":
                assert main(command.words[1:]) == 0, capsys.readouterr().err
                done.append(command.words[1])
            else:
                assert command.words == ["pip", "install", "."]  # tests/compat/test_package.py
    assert done == ["plan", "run", "report", "analyze", "inherit", "inherit", "train", "evaluate"]
    table = (tmp_path / "runs/demo/report/report.md").read_text(encoding="utf-8")
    assert "random" in table
    for named in (
        "summary.json",
        "rounds/1-1layers/model",
        "rounds/1-1layers/metrics.jsonl",
        "analysis",
        "samples.json",
    ):
        assert (tmp_path / "runs/demo" / named).exists(), named
