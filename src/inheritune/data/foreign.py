"""Token files of other programs, used as they are (nanoGPT's .bin, datatrove's .ds); ours written as nanoGPT's."""

import glob
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.prepared import FORMAT, MANIFEST, Prepared, note_beside, open_prepared, opened
from inheritune.data.shards import DTYPES, file_size
from inheritune.data.tokenizer import fingerprint, separator
from inheritune.errors import InputError
from inheritune.recipe import TokenFiles
from inheritune.runlog import new_folder, versions, write_json
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK = 2**24  # bytes read at once
_REMEDY = "bring the file back as it was, or begin anew in another folder"
_NANOGPT = {"train": "train.bin", "validation": "val.bin"}


def nanogpt_files(folder: str | Path) -> TokenFiles | None:
    """train.bin and val.bin of a folder that nanoGPT's scripts wrote; None where it is no such folder."""
    folder = Path(folder)
    found = {split: folder / name for split, name in _NANOGPT.items()}
    if (folder / MANIFEST).exists() or not all(file.is_file() for file in found.values()):
        return None
    return TokenFiles(**{split: [glob.escape(str(file))] for split, file in found.items()})


def list_token_files(files: TokenFiles) -> dict[str, list[Path]]:
    """The files of 'train' and 'validation' in their order.

    Raises InputError for a name that matches nothing, another kind of file, no or half a token, a file named twice.
    """
    found = {
        "train": _matching(files.train, "data.tokens.train"),
        "validation": _matching(files.validation, "data.tokens.validation"),
    }
    every = [file for split in found.values() for file in split]
    for file in every:
        if file.suffix not in (".bin", ".ds"):
            raise InputError(str(file), "no token file", "give .bin (nanoGPT) or .ds (datatrove)")
        size = file_size(file, _REMEDY)
        if not size or size % 2:
            what = f"has {size} bytes, a token has 2" if size else "is empty"
            raise InputError(str(file), what, "give a whole file of uint16 tokens without a header")
        if every.count(file) > 1:
            raise InputError(str(file), "is named twice in data.tokens", "name it once: validation is never trained on")
    return found


def adopt(files: TokenFiles, tokenizer: "PreTrainedTokenizerBase", out: str | Path) -> Prepared:
    """Prepared data in the folder `out` that consists of `files` where they are: a manifest, and the tokenizer.

    Every file is read once, in bounded memory. Raises InputError as `survey` does.
    """
    out = Path(out)
    manifest = survey(files, len(tokenizer), tokenizer)
    with new_folder(out) as partial:
        tokenizer.save_pretrained(partial / "tokenizer")
        write_json(partial / MANIFEST, manifest)
    return open_prepared(out)


def open_data(
    data: "Prepared | str | Path", runtime: Runtime, vocabulary: int, tokenizer: "PreTrainedTokenizerBase | None"
) -> Prepared:
    """Data at the beginning of a training or an evaluation, every byte of it read once by the first process, but for
    what a run noted beside its data folder.

    `data` is prepared data, its folder, or a folder with nanoGPT's train.bin and val.bin; `tokenizer` and `vocabulary`
    are then what the tokens are said to be of. Raises InputError for data that is missing, damaged or does not fit.
    """
    found = find_data(data)
    if isinstance(found, TokenFiles):
        return opened(Path(), runtime.first_does(lambda: survey(found, vocabulary, tokenizer)))
    note = None if isinstance(data, Prepared) else note_beside(Path(data))
    runtime.first_does(lambda: found.verify(note if note is not None and note.exists() else None))
    return found


def find_data(data: "Prepared | str | Path") -> Prepared | TokenFiles:
    """What `data` is, by names and sizes. Raises InputError where there is nothing, or something is cut short."""
    if isinstance(data, Prepared):
        return data
    files = nanogpt_files(data)
    if files is None:
        return open_prepared(data)
    list_token_files(files)
    return files


def survey(files: TokenFiles, vocabulary: int, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    """A manifest of token files, which are all read once.

    Raises InputError as `list_token_files` does, for a token that is not in the vocabulary, files of different types,
    and a tokenizer without end-of-text.
    """
    end_of_text = None if tokenizer is None else separator(tokenizer, "reference.tokenizer")
    found = list_token_files(files)
    dtypes = {file: _dtype(file, vocabulary) for split in found.values() for file in split}
    dtype = next(iter(dtypes.values()))
    for file, other in dtypes.items():
        if other != dtype:
            raise InputError(
                str(file), f"has {other} tokens, {next(iter(dtypes))} has {dtype}", "give files of one type"
            )
    scans = {split: [_scan(file, dtype, end_of_text) for file in each] for split, each in found.items()}
    for scan in [scan for each in scans.values() for scan in each]:
        if scan.largest >= vocabulary:
            raise InputError(
                str(scan.file),
                f"has token {scan.largest}, the tokenizer has {vocabulary}",
                "give files that the reference's tokenizer made"
                + (" (or uint32 files, with the .metadata that says so)" if scan.file.suffix == ".ds" else ""),
            )
    return {
        "format": FORMAT,
        "dtype": dtype,
        "tokens": {split: sum(scan.tokens for scan in each) for split, each in scans.items()},
        "documents": {split: sum(scan.ends for scan in each) for split, each in scans.items()},
        "largest_token": max(scan.largest for each in scans.values() for scan in each),
        "end_of_text": end_of_text,
        "tokenizer": None if tokenizer is None else fingerprint(tokenizer),
        "shards": {
            split: [{"file": str(scan.file), "tokens": scan.tokens, "sha256": scan.sha256} for scan in each]
            for split, each in scans.items()
        },
        "request": {"tokens": files.model_dump(mode="json")},
        "remedy": _REMEDY,
        "versions": versions(),
        "seconds": 0.0,
    }


def write_nanogpt(prepared: Prepared, out: str | Path) -> None:
    """Write train.bin and val.bin as nanoGPT reads them (uint16, no header) into the new folder `out`.

    Raises InputError for tokens that do not fit into uint16, and where something stands there.
    """
    if Path(out).exists():
        raise InputError(str(out), "exists already", "give another folder, or remove it")
    if prepared.manifest["dtype"] != "uint16":
        largest = prepared.manifest["largest_token"]
        raise InputError(
            str(prepared.folder),
            f"its tokens are {prepared.manifest['dtype']} (largest {largest}), nanoGPT reads uint16",
            "use it as it is, or prepare with a tokenizer of at most 65,536 entries",
        )
    with new_folder(Path(out)) as partial:
        for split, name in _NANOGPT.items():
            with (partial / name).open("wb") as target:
                for shard in prepared.tokens(split).shards:
                    with shard.file.open("rb") as source:
                        shutil.copyfileobj(source, target, _BLOCK)


def _matching(patterns: Sequence[str], place: str) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns:
        matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))  # noqa: PTH207 (absolute patterns)
        if not matches:
            raise InputError(place, f"no such file: {pattern}", "correct the path or pattern")
        found += [Path(name).resolve() for name in matches]
    return found


def _dtype(file: Path, vocabulary: int) -> str:
    """What a file's tokens are."""
    if file.suffix == ".bin":
        return "uint16"
    metadata = file.with_name(f"{file.name}.metadata")
    size = 2 if vocabulary <= 2**16 else 4  # datatrove's own rule
    if metadata.exists():
        said = metadata.read_text(encoding="utf-8").partition("\n")[0].rpartition("|")[2].strip()
        if said not in ("2", "4"):
            raise InputError(str(metadata), f"says {said!r} bytes a token, legal are 2 and 4", "mend or delete it")
        size = int(said)
    if file.stat().st_size % size:
        what = f"has {file.stat().st_size} bytes, a token has {size}"
        raise InputError(str(file), what, "give a whole file, or the .metadata that says how large a token is")
    return DTYPES[size == 4]


@dataclass(frozen=True)
class _Scan:
    file: Path
    tokens: int
    ends: int
    largest: int
    sha256: str


def _scan(file: Path, dtype: str, end_of_text: int | None) -> _Scan:
    """Read a file once, a block at a time."""
    digest, tokens, ends, largest = hashlib.sha256(), 0, 0, 0
    with file.open("rb") as opened_file:
        while block := opened_file.read(_BLOCK):
            digest.update(block)
            row = np.frombuffer(block, np.dtype(dtype).newbyteorder("<"))
            tokens, largest = tokens + len(row), max(largest, int(row.max()))
            ends += 0 if end_of_text is None else int(np.count_nonzero(row == end_of_text))
    return _Scan(file, tokens, ends, largest, digest.hexdigest())
