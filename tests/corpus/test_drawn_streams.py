"""Streamed data sets in a preparation: alone and beside files, to their end, cut off, and broken."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from pieces import completed, cut_small

from cut_off import Killed, cut_off_at_file
from inheritune.corpus import prepare
from inheritune.corpus.sources.streaming import read_stream
from inheritune.data import Prepared
from inheritune.errors import InputError

WORDS = [f"{a}{b}" for a in ("ba", "do", "ke", "li", "mu", "na") for b in ("n", "r", "st", "l")]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)
    cut_small(monkeypatch, None, 3_000)


def texts(count: int, mark: str) -> list[str]:
    draw = random.Random(mark)
    return [" ".join(draw.choices(WORDS, k=draw.randint(10, 40))) + f" {mark} {number}" for number in range(count)]


def write(folder: Path, some: list[str], files: int = 3) -> Path:
    folder.mkdir()
    for number in range(files):
        lines = (json.dumps({"text": text}) + "\n" for text in some[number::files])
        (folder / f"train-{number}.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def stream(tmp_path: Path) -> dict[str, Any]:
    return {"dataset": str(write(tmp_path / "set", texts(150, "streamed"))), "buffer": 20}


def contents(prepared: Prepared) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(prepared.folder.glob("*.bin"))}


def decoded(prepared: Prepared, tokenizer: Any, split: str) -> list[str]:
    found = tokenizer.decode(prepared.tokens(split).read().tolist())
    return [text for text in found.split(tokenizer.eos_token) if text]


def request(*sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"sources": list(sources), "validation": "100 tokens", "workers": 1, **more}


def test_a_whole_stream_has_every_document_once(stream: Any, tokenizer: Any, tmp_path: Path) -> None:
    found, expected = prepare(request(stream), tokenizer, tmp_path / "data"), texts(150, "streamed")
    parts = decoded(found, tokenizer, "train"), decoded(found, tokenizer, "validation")
    assert sorted(parts[0] + completed(parts[1], [*{*expected} - {*parts[0]}])) == sorted(expected)
    assert parts[1]
    assert "from a stream" in found.manifest["sources"][0]["drawn"]


def test_a_part_of_a_stream_is_its_beginning_as_shuffled(stream: Any, tokenizer: Any, tmp_path: Path) -> None:
    from inheritune.corpus.sources.texts import Fault
    from inheritune.recipe import Source

    found = prepare(request(stream, size="500 tokens"), tokenizer, tmp_path / "data", seed=3)
    source = Source.model_validate(stream)
    shuffled = [text.text for text in read_stream(source, 3, Fault(source, lambda place, reason: None))]
    read = found.manifest["documents"]["found"]
    assert 0 < read < 150
    train, validation = decoded(found, tokenizer, "train")[:-1], decoded(found, tokenizer, "validation")
    assert {*train, *completed(validation, [*{*shuffled[:read]} - {*train}])} <= set(shuffled[:read])
    assert len(found.tokens("train")) == 500


def test_weights_share_a_size_between_a_stream_and_files(stream: Any, tokenizer: Any, tmp_path: Path) -> None:
    files = {"path": str(write(tmp_path / "files", texts(150, "filed") + texts(150, "streamed")[:40]))}
    whole = "3500 tokens"  # so many that no document is cut
    asked = request({**stream, "weight": 1}, {**files, "weight": 2}, size="900 tokens", validation=whole)
    found = prepare(asked, tokenizer, tmp_path / "data")
    assert [source["train_tokens"] for source in found.manifest["sources"]] == [300, 600]
    assert not set(decoded(found, tokenizer, "train")) & set(decoded(found, tokenizer, "validation"))


@pytest.mark.long
@pytest.mark.parametrize("filters", [[], ["exact_duplicates"]])
def test_a_stream_that_was_read_to_its_end_before_changes_nothing(
    filters: Any, stream: Any, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its end is known then, which must not be taken for the end of what a lower threshold admits."""
    caplog.set_level("INFO", "inheritune")
    rest: list[Any] = [{"filter": "length", "min_characters": 175}, *filters]
    with pytest.raises(InputError, match="would fit") as caught:
        prepare(request(stream, size="1M tokens", filters=rest), tokenizer, tmp_path / "data")
    fits = str(caught.value).partition("data.size of ")[2].split()[0].replace(",", "")
    for size in (fits, "700"):
        with pytest.raises(InputError, match="would fit"):
            prepare(request(stream, size="1M tokens", filters=rest), tokenizer, tmp_path / size)
        asked = request(stream, size=f"{size} tokens", filters=rest)
        caplog.clear()
        fresh = prepare(asked, tokenizer, tmp_path / f"fresh-{size}")
        again = "more documents are needed" in caplog.text
        assert contents(prepare(asked, tokenizer, tmp_path / size)) == contents(fresh)
    assert again


def test_validation_is_read_on_for_where_training_takes_all(stream: Any, tokenizer: Any, tmp_path: Path) -> None:
    """A filter leaves so little that the beginning of the stream does not hold all of validation."""
    rest: list[Any] = [{"filter": "length", "min_characters": 165}]
    kept = [text for text in texts(150, "streamed") if len(text) >= 165]
    found = prepare(request(stream, filters=rest), tokenizer, tmp_path / "data")
    parts = decoded(found, tokenizer, "train"), decoded(found, tokenizer, "validation")
    assert sorted(parts[0] + completed(parts[1], [*{*kept} - {*parts[0]}])) == sorted(kept)
    assert found.manifest["tokens"]["validation"] >= 100


@pytest.mark.long
def test_a_stream_of_long_documents_is_read_on_for_many_of_them(tokenizer: Any, tmp_path: Path) -> None:
    """The same ones whatever training takes."""
    long = [" ".join(texts(4, f"long {number}")) for number in range(250)]
    source = {"dataset": str(write(tmp_path / "set", long)), "buffer": 20}
    found = [
        prepare(request(source, **more), tokenizer, tmp_path / str(number))
        for number, more in enumerate([{}, {"size": "600 tokens"}])
    ]
    rows = [one.tokens("validation").read().tolist() for one in found]
    assert rows[0] == rows[1]
    assert rows[0].count(found[0].end_of_text) == 20


def test_of_a_stream_with_few_long_documents_some_are_left(tokenizer: Any, tmp_path: Path) -> None:
    """It has fewer than twenty; its end shows that, and that each must give more."""
    few = [" ".join(texts(4, f"long {number}")) for number in range(15)]
    source = {"dataset": str(write(tmp_path / "set", few)), "buffer": 20}
    found = [
        prepare(request(source, **more), tokenizer, tmp_path / str(number))
        for number, more in enumerate([{}, {"size": "600 tokens"}])
    ]
    rows = [one.tokens("validation").read().tolist() for one in found]
    assert rows[0] == rows[1]
    assert 100 <= len(rows[0]) < 120
    assert rows[0].count(found[0].end_of_text) <= 6


def test_files_that_are_too_short_are_read_once(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    source = {"path": str(write(tmp_path / "files", texts(60, "filed")))}
    rest: list[Any] = [{"filter": "length", "min_characters": 140}]
    with pytest.raises(InputError, match="would fit"):
        prepare(request(source, size="100K tokens", filters=rest), tokenizer, tmp_path / "data")
    assert [line for line in caplog.messages if "more documents" in line] == []


@pytest.mark.parametrize("after", [1, 3, 6])
def test_a_stream_that_was_cut_off_goes_on(after: int, stream: Any, tokenizer: Any, tmp_path: Path) -> None:
    expected = prepare(request(stream), tokenizer, tmp_path / "fresh")
    cut_off = cut_off_at_file(after + 1, lambda file: file.parent.name.startswith("collected"))
    with cut_off, pytest.raises(Killed):
        prepare(request(stream), tokenizer, tmp_path / "data")
    assert len(list((tmp_path / ".data.work").glob("collected-0/[0-9]*"))) == after
    found = prepare(request(stream), tokenizer, tmp_path / "data")
    assert contents(found) == contents(expected)
    assert found.manifest["documents"] == expected.manifest["documents"]


def test_rows_without_text_are_named_or_passed_over(tokenizer: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "set", texts(30, "streamed"))
    (folder / "train-9.jsonl").write_text('{"text": null}\n' * 3 + '{"text": " "}\n')
    source: dict[str, Any] = {"dataset": str(folder), "buffer": 5}
    with pytest.raises(InputError, match=r"row \d+ as drawn: no text under 'text', but null"):
        prepare(request(source), tokenizer, tmp_path / "data")
    found = prepare(request({**source, "on_error": "skip"}), tokenizer, tmp_path / "data")
    assert found.manifest["sources"][0]["passed_over"] == {"no text under 'text', but null": 3}
    assert found.manifest["documents"]["found"] == 30


def test_an_empty_stream_is_named(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train-0.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(InputError, match="set: no text"):
        prepare(request({"dataset": str(tmp_path / "set")}), tokenizer, tmp_path / "data")
