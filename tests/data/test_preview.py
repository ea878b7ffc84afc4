import json
from pathlib import Path
from typing import Any

from inheritune.corpus import prepare
from inheritune.data import preview


def test_documents_of_all_sources_are_shown_as_they_are_stored(tokenizer: Any, tmp_path: Path) -> None:
    sources: list[dict[str, Any]] = []
    for number in range(4):
        file = tmp_path / f"{number}.jsonl"
        texts = [f"source {number} " + f"word{n} " * 60 for n in range(40)]
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        sources.append({"path": str(file), "weight": 1})
    request = {"sources": sources, "size": "12K tokens", "validation": "10 tokens", "workers": 1}
    prepared = prepare(request, tokenizer, tmp_path / "data")
    shown = list(preview(prepared, 10, tokenizer))
    assert len(shown) == 10
    assert {entry["text"].split("source ")[-1][0] for entry in shown} == {"0", "1", "2", "3"}
    row = prepared.tokens("train").read().tolist()
    whole = tokenizer.decode(row)
    for entry in shown:
        head, _, tail = entry["text"].partition("\n[... ")
        assert head in whole
        assert entry["tokens"] <= len(row)
        if tail:
            assert tail.partition("...]\n")[2] in whole
    first = row[: row.index(tokenizer.eos_token_id) + 1]
    assert shown[0]["tokens"] == len(first)


def test_fewer_documents_than_asked_for(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\nthree")
    request = {"sources": [{"path": str(tmp_path / "a.txt"), "document": "blank line"}], "validation": "1 tokens"}
    prepared = prepare(request, tokenizer, tmp_path / "data")
    texts = [entry["text"] for entry in preview(prepared, 10, tokenizer)]
    assert 1 <= len(texts) <= 2
    assert all(text.endswith(tokenizer.eos_token) for text in texts)
