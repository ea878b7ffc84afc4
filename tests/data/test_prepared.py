"""Opening prepared data: sizes at once, contents when asked for; what does not belong together is refused."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inheritune.corpus import prepare
from inheritune.data import (
    check_tokenizer,
    check_vocabulary,
    fingerprint,
    note_beside,
    open_data,
    open_prepared,
    train_tokenizer,
    write_nanogpt,
)
from inheritune.errors import InputError
from inheritune.runlog import checksum
from inheritune.runtime import Runtime


def make(folder: Path, tokenizer: Any, dtype: str = "uint16", **more: Any) -> Path:
    """Prepared data as its format says, in two training shards."""
    folder.mkdir()
    shards: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for split, length in (("train", 40), ("train", 30), ("validation", 20)):
        file = folder / f"{split}-{len(shards[split]):05d}.bin"
        np.arange(length, dtype=dtype).tofile(file)
        shards[split].append({"file": file.name, "tokens": length, "sha256": checksum(file)})
    manifest = {
        "format": 2, "dtype": dtype, "shards": shards, "tokens": {"train": 70, "validation": 20}, "largest_token": 39,
        "documents": {"train": 1, "validation": 1}, "end_of_text": 0, "tokenizer": fingerprint(tokenizer), **more,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_opening_gives_the_tokens_in_the_order_of_the_shards(tmp_path: Path, tokenizer: Any, dtype: str) -> None:
    found = open_prepared(make(tmp_path / "data", tokenizer, dtype))
    found.verify()
    assert found.tokens("train").read().tolist() == [*range(40), *range(30)]
    assert found.tokens("validation").read().tolist() == list(range(20))
    assert found.end_of_text == 0
    assert sorted(found.checksums) == ["train-00000.bin", "train-00001.bin", "validation-00000.bin"]


def test_origins_of_validation_are_pairs_and_none_where_the_manifest_has_none(tmp_path: Path, tokenizer: Any) -> None:
    origins = [[0, 0], [1, 900], [0, 300]]
    assert open_prepared(make(tmp_path / "new", tokenizer, validation_origins=origins)).validation_origins == [
        (0, 0), (1, 900), (0, 300),
    ]  # fmt: skip
    assert open_prepared(make(tmp_path / "old", tokenizer)).validation_origins is None


def test_what_prepare_writes_is_of_this_format(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    made = prepare({"sources": [{"path": str(text)}], "validation": "500 tokens"}, tokenizer, tmp_path / "data")
    opened = open_prepared(tmp_path / "data")
    opened.verify()
    for split in ("train", "validation"):
        whole = b"".join((tmp_path / "data" / shard["file"]).read_bytes() for shard in made.manifest["shards"][split])
        assert opened.tokens(split).read().tobytes() == whole


@pytest.mark.parametrize("fault", ["short", "changed", "missing", "no manifest", "old format", "dtype", "damaged"])
def test_damage_is_refused_with_the_name(tmp_path: Path, tokenizer: Any, fault: str) -> None:
    folder = make(tmp_path / "data", tokenizer)
    file, manifest = folder / "train-00001.bin", folder / "manifest.json"
    said = json.loads(manifest.read_text())
    words = {
        "short": r"train-00001\.bin: has 58 bytes, the manifest has 60; prepare the data again",
        "changed": r"train-00001\.bin: changed since it was written \(checksum\); prepare the data again",
        "missing": r"train-00001\.bin: missing; prepare the data again",
        "no manifest": r"data: no prepared data there \(no manifest\.json\); give a folder",
        "old format": "format 1, this version reads 2; prepare the data again",
        "dtype": "tokens of type float32, legal are uint16, uint32",
        "damaged": "damaged: it has no 'sha256'",
    }[fault]
    if fault == "short":
        file.write_bytes(file.read_bytes()[:-2])
    elif fault == "changed":
        file.write_bytes(b"\xff" + file.read_bytes()[1:])
    elif fault == "missing":
        file.unlink()
    elif fault == "no manifest":
        manifest.unlink()
    else:
        said |= {"old format": {"format": 1}, "dtype": {"dtype": "float32"}, "damaged": {}}[fault]
        if fault == "damaged":
            del said["shards"]["train"][0]["sha256"]
        manifest.write_text(json.dumps(said))
    with pytest.raises(InputError, match=words) as caught:
        open_prepared(folder).verify()
    assert "\n" not in str(caught.value)


def test_another_tokenizer_and_too_small_a_vocabulary(tmp_path: Path, tokenizer: Any) -> None:
    found = open_prepared(make(tmp_path / "data", tokenizer))
    check_tokenizer(found, tokenizer, "here")
    with pytest.raises(InputError, match=r"here: the data in .* was made with another tokenizer; prepare it with"):
        check_tokenizer(found, train_tokenizer(iter(["quite another text " * 50]), 270), "here")
    check_vocabulary(found, 40, "model")
    with pytest.raises(InputError, match="the data has token 39, the model embeds 39; prepare"):
        check_vocabulary(found, 39, "model")


def test_ours_written_as_nanogpts(tmp_path: Path, tokenizer: Any) -> None:
    ours = open_prepared(make(tmp_path / "data", tokenizer))
    write_nanogpt(ours, tmp_path / "out")
    train, val = (np.memmap(tmp_path / "out" / name, dtype=np.uint16, mode="r") for name in ("train.bin", "val.bin"))
    assert train.tolist() == [*range(40), *range(30)]
    assert val.tolist() == list(range(20))
    for damage in (b"\0\0", b""):  # one token more, and one token another
        write_nanogpt(ours, tmp_path / "out")
        file = tmp_path / "out" / "val.bin"
        before = file.read_bytes()
        file.write_bytes(before + damage if damage else before[:-2] + b"\7\7")
        with pytest.raises(InputError, match="out: exists already"):
            write_nanogpt(ours, tmp_path / "out")
        file.write_bytes(before)
    with pytest.raises(InputError, match=r"tokens are uint32 \(largest 39\), nanoGPT reads uint16"):
        write_nanogpt(open_prepared(make(tmp_path / "wide", tokenizer, "uint32")), tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files of tokens that are read as a whole, that is, not by place."""
    names: list[str] = []
    plain = Path.open

    def note(self: Path, *given: Any, **named: Any) -> Any:
        if self.suffix == ".bin":
            names.append(self.name)
        return plain(self, *given, **named)

    monkeypatch.setattr(Path, "open", note)
    return names


def test_what_was_verified_is_read_again_only_when_it_was_written(
    tmp_path: Path, tokenizer: Any, read: list[str]
) -> None:
    folder, note = make(tmp_path / "data", tokenizer), tmp_path / "note.json"
    read.clear()
    for _ in range(2):
        open_prepared(folder).verify(note)
    assert sorted(read) == ["train-00000.bin", "train-00001.bin", "validation-00000.bin"]
    times = (folder / "train-00001.bin").stat().st_mtime_ns
    with (folder / "train-00001.bin").open("r+b") as file:
        file.write(b"\xff")
    os.utime(folder / "train-00001.bin", ns=(times, times))  # the size is the same, and the time says nothing
    with pytest.raises(InputError, match=r"train-00001\.bin: changed since it was written"):
        open_prepared(folder).verify(note)
    assert read[3:] == ["train-00001.bin"] * 2  # written to, and read
    note.write_text("{")
    with pytest.raises(InputError, match=r"train-00001\.bin: changed since it was written"):
        open_prepared(folder).verify(note)


def test_what_a_run_noted_beside_its_data_is_not_read_again(tmp_path: Path, tokenizer: Any, read: list[str]) -> None:
    folder, runtime = make(tmp_path / "data", tokenizer), Runtime("cpu", 1)
    (tmp_path / "run").mkdir()
    link = tmp_path / "run" / "data"
    link.symlink_to(folder)  # prepared data, as a run has it
    open_prepared(link).verify(note_beside(link))
    assert sorted(read[3:]) == ["train-00000.bin", "train-00001.bin", "validation-00000.bin"]
    read.clear()
    open_data(link, runtime, 300, tokenizer)
    assert read == []
    (folder / "train-00000.bin").write_bytes(b"\xff" * 80)
    for place in (link, folder):
        with pytest.raises(InputError, match=r"train-00000\.bin: changed since it was written"):
            open_data(place, runtime, 300, tokenizer)
