"""`inheritune prepare TEXT` with the keys of a source as options: the same as a recipe that has them."""

import json
from pathlib import Path
from typing import Any

import pytest

from inheritune.cli import main
from inheritune.corpus import prepare
from inheritune.data import open_prepared


@pytest.fixture
def records(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name, encoding in (("a.jsonl", "latin-1"), ("b.jsonl", "utf-8"), ("left-out.jsonl", "utf-8")):
        lines = [json.dumps({"body": f"{name} {n} Müller läuft."}, ensure_ascii=False) for n in range(40)]
        (tmp_path / "in" / name).write_bytes("\n".join([*lines, '{"other": 1}', ""]).encode(encoding))
    return tmp_path / "in"


def test_options_say_what_a_recipe_says(
    tmp_path: Path, records: Path, reference_folder: Path, tokenizer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "prepare", records, "--out", tmp_path / "data", "--tokenizer", reference_folder, "--validation", "300 tokens",
        "--text-key", "body", "--encoding", "auto", "--exclude", "left*", "--on-error", "skip", "--limit", "200 tokens",
        "--document", "record", "--name", "dictionary", "--include", "*.jsonl",
    ]  # fmt: skip
    assert main([*map(str, words), "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    source = {
        "path": str(records), "text_key": "body", "encoding": "auto", "exclude": ["left*"], "on_error": "skip",
        "limit": "200 tokens", "document": "record", "name": "dictionary", "include": ["*.jsonl"],
    }  # fmt: skip
    made = prepare({"sources": [source], "validation": "300 tokens"}, tokenizer, tmp_path / "other")
    changing = ("seconds", "versions")
    assert {k: v for k, v in found.items() if k not in changing} == {
        k: v for k, v in made.manifest.items() if k not in changing
    }
    assert made.manifest["sources"][0]["documents_found"] == 80
    assert sum(made.manifest["sources"][0]["passed_over"].values()) == 2
    assert made.manifest["sources"][0]["encodings"] == {"cp1252": 1, "utf-8": 1}
    assert "encoding of dictionary, decided by the files' bytes: 1 in cp1252, 1 in utf-8; not UTF-8: " in said.err
    text = tokenizer.decode(open_prepared(tmp_path / "data").tokens("train").read())
    assert "Müller läuft" in text
    assert len(made.tokens("train")) == 200


def test_a_split_and_documents_of_a_size(
    tmp_path: Path, text: Path, reference_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"text": [file.read_text() for file in sorted(text.iterdir())]})
    datasets.DatasetDict({"train": rows.select([0]), "all": rows}).save_to_disk(tmp_path / "saved")
    shared = ["--tokenizer", str(reference_folder), "--validation", "100 tokens", "--json", "--quiet"]
    assert main(["prepare", str(tmp_path / "saved"), "--split", "all", "--out", str(tmp_path / "a"), *shared]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["documents_found"] == 60
    assert main(["prepare", str(text), "--document", "100 characters", "--out", str(tmp_path / "b"), *shared]) == 0
    assert json.loads(capsys.readouterr().out)["sources"][0]["documents_found"] > 300
