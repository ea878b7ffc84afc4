"""External tokens: token files of other programs used in place as prepared data; and ours written for nanoGPT."""

import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.prepared import (
    FORMAT,
    MANIFEST,
    Prepared,
    check_new,
    has_result,
    note_beside,
    open_prepared,
    open_same,
    opened,
)  # fmt: skip
from inheritune.data.token_files import REMEDY, TokenFile, list_token_files, typed
from inheritune.data.tokenizer import fingerprint, separator
from inheritune.errors import InputError
from inheritune.recipe import TokenFiles, check
from inheritune.runlog import claimed, new_folder, versions, write_json
from inheritune.runtime import Runtime
from inheritune.token_ids import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK = 2**24  # bytes read at once
_NANOGPT = {"train": "train.bin", "validation": "val.bin"}


def nanogpt_files(folder: str | Path, dtype: Any = None) -> TokenFiles | None:
    """train.bin and val.bin of a folder that nanoGPT's scripts wrote; None for another folder."""
    folder = Path(folder)
    files = {split: folder / name for split, name in _NANOGPT.items()}
    if (folder / MANIFEST).exists() or not all(file.is_file() for file in files.values()):
        return None
    patterns = {split: [glob.escape(str(file))] for split, file in files.items()}
    return check(TokenFiles, {**patterns, "dtype": dtype}, str(folder))


def adopt(files: TokenFiles, tokenizer: "PreTrainedTokenizerBase", out: str | Path) -> Prepared:
    """Prepared data in the folder `out`: a manifest of `files`, which stay in their place, and the tokenizer.

    Every file is read once, in bounded memory. Raises InputError as `survey` does, and where `out` holds anything but
    the result of the same call.
    """
    out = Path(out)
    with claimed(Path(os.path.realpath(out))):
        if has_result(out):
            return open_same(out, {"request": _request(files)}, fingerprint(tokenizer))
        check_new(out)
        manifest = survey(files, vocabulary_size(tokenizer), tokenizer)
        with new_folder(out) as partial:
            tokenizer.save_pretrained(partial / "tokenizer")
            write_json(partial / MANIFEST, manifest)
    return open_prepared(out)


def open_data(
    data: "Prepared | str | Path", runtime: Runtime, vocabulary: int, tokenizer: "PreTrainedTokenizerBase | None"
) -> Prepared:
    """Open the data of a training or an evaluation. Rank 0 reads every byte once, except of unchanged shards that a run
    has verified before.

    `data` is prepared data, its folder, or a folder with nanoGPT's train.bin and val.bin, for which `tokenizer` and
    `vocabulary` are needed. Raises InputError for data that is missing, damaged or does not fit.
    """
    source = find_data(data)
    if isinstance(source, TokenFiles):
        return opened(Path(), runtime.on_rank0(lambda: survey(source, vocabulary, tokenizer)))
    note = None if isinstance(data, Prepared) else note_beside(Path(data))
    runtime.on_rank0(lambda: source.verify(note if note is not None and note.exists() else None))
    return source


def find_data(data: "Prepared | str | Path") -> Prepared | TokenFiles:
    """What `data` is, by names and sizes. Raises InputError where it is missing or cut short."""
    if isinstance(data, Prepared):
        return data
    files = nanogpt_files(data)
    if files is None:
        return open_prepared(data)
    list_token_files(files)
    return files


def survey(files: TokenFiles, vocabulary: int, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    """A manifest of token files, which are all read once.

    Raises InputError as `typed` does, for a token outside the vocabulary, and for a tokenizer without end-of-text.
    """
    end_of_text = None if tokenizer is None else separator(tokenizer, "reference.tokenizer")
    # The tokenizer decides the type of tokens; a model may embed more than its tokenizer has.
    listed = typed(files, vocabulary if tokenizer is None else vocabulary_size(tokenizer))
    shards: dict[str, list[dict[str, Any]]] = {split: [] for split in listed}
    documents, largest = dict.fromkeys(listed, 0), 0
    for split, token_files in listed.items():
        for file in token_files:
            shard, ends, highest = _scan(file, end_of_text)
            if highest >= vocabulary:
                raise InputError(
                    str(file.file),
                    f"has token {highest}, the tokenizer has {vocabulary}",
                    f"give files that the reference's tokenizer made (it was read as {file.dtype} tokens)",
                )
            shards[split].append(shard)
            documents[split] += ends
            largest = max(largest, highest)
    return {
        "format": FORMAT,
        "dtype": listed["train"][0].dtype,
        "tokens": {split: sum(shard["tokens"] for shard in each) for split, each in shards.items()},
        "documents": documents,
        "largest_token": largest,
        "end_of_text": end_of_text,
        "tokenizer": None if tokenizer is None else fingerprint(tokenizer),
        "shards": shards,
        "request": _request(files),
        "remedy": REMEDY,
        "versions": versions(),
        "seconds": 0.0,
    }


def write_nanogpt(prepared: Prepared, out: str | Path) -> None:
    """Write train.bin and val.bin as nanoGPT reads them (uint16, no header) into the new folder `out`, unless it holds
    the same already.

    Raises InputError for tokens that do not fit into uint16, and where `out` has other files.
    """
    out = Path(out)
    if prepared.has_conversations:
        what = "its conversations have targets that do not count, and nanoGPT's files cannot say which"
        raise InputError(str(prepared.folder), what, "use it as it is")
    if prepared.manifest["dtype"] != "uint16":
        largest = prepared.manifest["largest_token"]
        raise InputError(
            str(prepared.folder),
            f"its tokens are {prepared.manifest['dtype']} (largest {largest}), nanoGPT reads uint16",
            "use it as it is, or prepare with a tokenizer of at most 65,536 entries",
        )
    with claimed(Path(os.path.realpath(out))):
        if all(_holds(out / name, _blocks(prepared, split)) for split, name in _NANOGPT.items()):
            return
        check_new(out)
        with new_folder(out) as partial:
            for split, name in _NANOGPT.items():
                with (partial / name).open("wb") as target:
                    target.writelines(_blocks(prepared, split))


def _blocks(prepared: Prepared, split: str) -> Iterator[bytes]:
    """The bytes of a split's tokens."""
    for shard in prepared.tokens(split).shards:
        with shard.file.open("rb") as source:
            source.seek(shard.offset)
            while block := source.read(_BLOCK):
                yield block


def _holds(file: Path, blocks: Iterator[bytes]) -> bool:
    """Whether a file consists of these bytes."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return all(opened.read(len(block)) == block for block in blocks) and not opened.read(1)


def _request(files: TokenFiles) -> dict[str, Any]:
    return {"tokens": files.model_dump(mode="json")}


def _scan(one: TokenFile, end_of_text: int | None) -> tuple[dict[str, Any], int, int]:
    """Read a file once, a block at a time: its shard in the manifest, its ends of documents, its largest token."""
    digest, tokens, ends, largest = hashlib.sha256(), 0, 0, 0
    with one.file.open("rb") as file:
        digest.update(file.read(one.offset))
        while block := file.read(_BLOCK):
            digest.update(block)
            row = np.frombuffer(block, np.dtype(one.dtype).newbyteorder("<"))
            tokens, largest = tokens + len(row), max(largest, int(row.max()))
            ends += 0 if end_of_text is None else int(np.count_nonzero(row == end_of_text))
    shard = {"file": str(one.file), "tokens": tokens, "sha256": digest.hexdigest()}
    return shard | ({"offset": one.offset} if one.offset else {}), ends, largest
