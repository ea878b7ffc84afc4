"""Folders of `datasets.save_to_disk` and Arrow files, written by datasets and pyarrow themselves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from inheritune.corpus.sources.inputs import list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.errors import InputError
from inheritune.recipe import Source

TEXTS = [f"{number} naïve – 東京 " + "word " * (number % 30) for number in range(2500)]


def documents(path: Any, skipped: Any = None, **source: Any) -> list[Any]:
    made = Source.model_validate({"path": str(path), **source})
    return [text for one in list_inputs([made]) for text in read(one, made, skipped, seed=1)]


def texts(path: Any, **source: Any) -> list[str]:
    return [document.text for document in documents(path, **source)]


def refusal(path: Any, **source: Any) -> str:
    with pytest.raises(InputError) as error:
        texts(path, **source)
    return str(error.value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """one: a data set of three shards; several: two splits of one."""
    import datasets

    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict({"id": list(range(2500)), "text": TEXTS})
    whole.save_to_disk(tmp_path / "one", num_shards=3)
    splits = {"train": whole.select(range(9, 20)), "held out": whole.filter(lambda row: row["id"] < 3)}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "several")
    return tmp_path


def test_a_data_set_and_its_splits(saved: Path) -> None:
    assert texts(saved / "one") == TEXTS
    assert texts(saved / "one", encoding="auto") == TEXTS
    assert texts(saved / "several") == TEXTS[9:20]
    assert texts(saved / "several", split="held out") == TEXTS[:3]
    assert texts(saved / "several" / "held out") == TEXTS[:3]
    assert texts(str(saved / "o*")) == TEXTS
    first = documents(saved / "one")[0]
    assert first.place == f"{saved / 'one' / 'data-00000-of-00003.arrow'}: row 1"
    (saved / "one" / "cache-0123456789abcdef.arrow").write_bytes(b"what map() left there")
    assert texts(saved / "one") == TEXTS
    assert texts(saved / "one", include=["data-00001*"]) == TEXTS[834:1667]
    assert texts(saved / "one", exclude=["data-00001*"]) == TEXTS[:834] + TEXTS[1667:]


def test_behind_an_address(saved: Path) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    memory = MemoryFileSystem()
    memory.put(str(saved / "several"), "/saved", recursive=True)
    assert texts("memory://saved") == TEXTS[9:20]
    assert texts("memory://saved", split="held out") == TEXTS[:3]
    assert "no split 'test'; there are: train, held out" in refusal("memory://saved", split="test")
    memory.rm("/saved", recursive=True)


def test_refusals_whose_remedies_work(saved: Path, tmp_path: Path) -> None:
    line = refusal(saved / "several", split="test")
    assert (
        f"{saved / 'several'}: no split 'test'; there are: train, held out; name one with the source's `split`" in line
    )
    assert "no split 'test': it is a single data set; remove `split`" in refusal(saved / "one", split="test")
    assert "no column 'body'; there are: 'id', 'text'; name the column" in refusal(saved / "one", text_key="body")
    assert "column 'id' holds int64, not text" in refusal(saved / "one", text_key="id")
    assert "a .arrow file has rows, not documents of `document: line`" in refusal(saved / "one", document="line")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_text("text")
    assert "remove `split`" in refusal(tmp_path / "plain", split="test")
    assert "remove `split`" in refusal(tmp_path / "plain" / "a.txt", split="test")
    with pytest.raises(InputError, match="name it with `path` instead of `dataset`"):
        list_inputs([Source(dataset=str(saved / "one"))])
    assert f"give each as a source of its own: path: {saved / 'one'}" in refusal(saved, exclude=["a.txt"])
    (saved / "one" / "data-00001-of-00003.arrow").unlink()
    assert "data-00001-of-00003.arrow: missing; bring the file back" in refusal(saved / "one")


def test_damaged_folders(saved: Path) -> None:
    state = saved / "one" / "state.json"
    before = json.loads(state.read_text())
    state.write_text(json.dumps(before | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    assert "as a selection of rows" in refusal(saved / "one")
    state.write_text(json.dumps(before | {"_data_files": [1]}))
    assert "its state.json names no files" in refusal(saved / "one")
    shutil.rmtree(saved / "several" / "train")
    assert "its split 'train' has no state.json" in refusal(saved / "several")


def test_arrow_files_of_both_forms(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.table({"n": list(range(2500)), "text": TEXTS})
    for name, form in (("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)):
        for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())):
            made = table.set_column(1, "text", table["text"].cast(kind))
            with form(tmp_path / name, made.schema) as writer:
                writer.write_table(made, max_chunksize=700)
            assert texts(tmp_path / name) == TEXTS
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        assert "not a whole .arrow file" in refusal(tmp_path / name)
        (tmp_path / name).write_bytes(b"no Arrow at all, but bytes")
        assert "not a whole .arrow file" in refusal(tmp_path / name)


def test_rows_without_text(tmp_path: Path) -> None:
    import pyarrow as pa

    made = pa.table({"text": ["one", None, "four"]})
    with pa.ipc.new_stream(tmp_path / "a.arrow", made.schema) as writer:
        writer.write_table(made)
    assert "row 2: no text under 'text', but null" in refusal(tmp_path / "a.arrow")
    met: list[str] = []
    found = documents(tmp_path / "a.arrow", lambda place, reason: met.append(place), on_error="skip")
    assert [document.text for document in found] == ["one", "four"]
    assert met == [f"{tmp_path / 'a.arrow'}: row 2"]


def test_other_folders_of_datasets(tmp_path: Path) -> None:
    """The hub's cache, a folder of parquet shards: what the message advises is what works."""
    import datasets

    datasets.disable_progress_bars()
    made = datasets.Dataset.from_dict({"text": TEXTS[:50]})
    (tmp_path / "shards").mkdir()
    for number in range(2):
        made.shard(2, number, contiguous=True).to_parquet(tmp_path / "shards" / f"train-0000{number}-of-00002.parquet")
    assert texts(tmp_path / "shards") == TEXTS[:50]
    (tmp_path / "in").mkdir()
    made.to_json(tmp_path / "in" / "a.jsonl")
    cached = datasets.load_dataset(str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"), split="train")
    folder = Path(cached.cache_files[0]["filename"]).parent
    line = refusal(folder)
    name = Path(cached.cache_files[0]["filename"]).name  # with its split: another one's file may lie beside it
    assert f"there are: *.arrow, *.json; set `include` to the names that hold the text, for example ['{name}']" in line
    assert texts(folder, include=[name]) == TEXTS[:50]
    assert texts(cached.cache_files[0]["filename"]) == TEXTS[:50]
