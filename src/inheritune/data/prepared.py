"""Prepared data: opening it, and the checks that it is whole and belongs to the tokenizer and model at hand."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.tokenizer import fingerprint
from inheritune.errors import InputError
from inheritune.runlog import checksum, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """A folder of tokens: one long row each for training and validation, memory-mapped."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer that made the tokens."""
        return self.folder / "tokenizer"

    def tokens(self, split: str) -> "np.ndarray[Any, np.dtype[Any]]":
        """The tokens of 'train' or 'validation', shape (N,), read-only and mapped, not loaded."""
        return np.memmap(self.folder / f"{split}.bin", dtype=self.manifest["dtype"], mode="r")


def open_prepared(folder: str | Path) -> Prepared:
    """Open what `prepare` wrote. Raises InputError for a file that is missing, cut short or changed."""
    folder = Path(os.path.realpath(folder))
    remedy = "prepare the data again"
    if not (folder / "manifest.json").is_file():
        raise InputError(
            str(folder),
            "no prepared data there (no manifest.json)",
            "give a folder that `inheritune prepare` wrote",
        )
    manifest = read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise InputError(str(folder), f"format {manifest.get('format')}, this version reads {FORMAT}", remedy)
    for split in ("train", "validation"):
        file = folder / f"{split}.bin"
        if not file.is_file():
            raise InputError(str(file), "missing", remedy)
        expected = manifest["tokens"][split] * np.dtype(manifest["dtype"]).itemsize
        if file.stat().st_size != expected:
            raise InputError(str(file), f"has {file.stat().st_size} bytes, the manifest says {expected}", remedy)
        if checksum(file) != manifest["checksums"][file.name]:
            raise InputError(str(file), "changed since it was written (checksum)", remedy)
    return Prepared(folder, manifest)


def check_tokenizer(prepared: Prepared, tokenizer: "PreTrainedTokenizerBase", place: str) -> None:
    """Raise InputError unless the data was tokenised by this tokenizer."""
    if fingerprint(tokenizer) != prepared.manifest["tokenizer"]:
        raise InputError(
            place,
            f"the data in {prepared.folder} was made with another tokenizer",
            "prepare it with this model's tokenizer",
        )


def check_vocabulary(prepared: Prepared, vocabulary: int, place: str) -> None:
    """Raise InputError when the data holds a token that the model does not embed."""
    largest = prepared.manifest["largest_token"]
    if largest >= vocabulary:
        raise InputError(
            place,
            f"tokenizer and model do not fit: the data has token {largest}, the model embeds {vocabulary}",
            "prepare the data with the model's own tokenizer",
        )
