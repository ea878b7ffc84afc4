"""Prepared data: opening it, and checking that it is whole and fits the tokenizer and the model."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.data.conversations import Long
from inheritune.data.sequences import Packing
from inheritune.data.shards import DTYPES, Shard, Tokens
from inheritune.data.tokenizer import fingerprint, prefix_tokens
from inheritune.errors import DamagedFile, InputError
from inheritune.recipe import Data, changes, completed
from inheritune.runlog import read_json, read_mapping, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 2
MANIFEST = "manifest.json"
SPLITS = ("train", "validation")
_FACTS = ("tokens", "documents", "largest_token", "end_of_text", "tokenizer")  # keys that other rooms read
_EXECUTION = ("executor", "workers", "slurm")  # keys of a request that do not affect the result
_REMEDY = "prepare the data again"


@dataclass(frozen=True)
class Prepared:
    """A folder whose manifest names the files of tokens: one long row for 'train' and one for 'validation'."""

    folder: Path
    manifest: dict[str, Any]
    splits: dict[str, Tokens]

    @property
    def tokenizer_folder(self) -> Path:
        """The tokenizer that made the tokens. Raises InputError where token files were opened without one."""
        self._check_known("tokenizer")
        return self.folder / "tokenizer"

    @property
    def kept_tokenizer(self) -> Path | None:
        """The folder of the tokenizer that made the tokens; None where token files were opened without one."""
        return None if self.manifest["tokenizer"] is None or self.folder == Path() else self.tokenizer_folder

    @property
    def end_of_text(self) -> int:
        """The token after every document. Raises InputError where token files were opened without a tokenizer."""
        self._check_known("end_of_text")
        return int(self.manifest["end_of_text"])

    @property
    def validation_origins(self) -> list[tuple[int, int]] | None:
        """For each validation document its origin and its place there, by which its pieces are ordered.

        Documents with the same origin were cut from one file. None where no file was cut into documents of a size.
        """
        origins = self.manifest.get("validation_origins")
        return None if origins is None else [(origin, place) for origin, place in origins]

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of each shard by its name, in hexadecimal; those of marks too."""
        listed = [self.manifest["shards"], self.manifest.get("marks", {})]
        return {shard["file"]: shard["sha256"] for each in listed for split in each for shard in each[split]}

    def tokens(self, split: str) -> Tokens:
        """The tokens of 'train' or 'validation'."""
        return self.splits[split]

    @property
    def has_conversations(self) -> bool:
        """Whether its documents are conversations."""
        return self.manifest.get("marks") is not None

    def _check_known(self, fact: str) -> None:
        if self.manifest[fact] is None:
            raise InputError("data", "raw token files do not name the tokenizer that made them", "give that tokenizer")

    def verify(self, note: Path | None = None) -> None:
        """Read all shards once. Raises InputError that names one which changed since it was written.

        The file `note` keeps the result: a shard that still has the size and times recorded there is not read again, so
        that resuming a run does not read a terabyte each time.
        """
        known: dict[str, Any] = {}
        if note is not None:
            with contextlib.suppress(FileNotFoundError, DamagedFile):  # it is written again
                known = read_mapping(note)
        states = {file: state for tokens in self.splits.values() for file, state in tokens.verify(known).items()}
        if note is not None and states != known:
            write_json(note, states)


def note_beside(folder: Path) -> Path:
    """The file that records which shards of a run's data are whole: beside its folder, which may be a link."""
    return folder.with_name(f"{folder.name}-verified.json")


def open_prepared(folder: str | Path) -> Prepared:
    """Open what `prepare` or `adopt` wrote, by its manifest and the sizes of its files.

    Raises InputError for a file that is missing, unreadable or cut short; `Prepared.verify` finds other changes.
    """
    folder = Path(os.path.realpath(folder))
    place = folder / MANIFEST
    try:
        manifest = read_json(place)
    except (FileNotFoundError, NotADirectoryError):
        what, remedy = f"no prepared data there (no {MANIFEST})", "give a folder that `inheritune prepare` wrote"
        raise InputError(str(folder), what, remedy) from None
    except OSError as error:
        raise InputError(str(place), f"cannot be read ({error.strerror})", "make it readable") from None
    except DamagedFile as error:
        raise InputError(str(place), error.problems[0].what, _REMEDY) from None
    return opened(folder, manifest)


def has_result(folder: Path) -> bool:
    """Whether `folder` holds prepared data."""
    return (folder / MANIFEST).is_file()


def check_new(out: Path) -> None:
    """Raise InputError unless `out` is missing or an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(str(out), "exists already", "give another folder, or remove it")


def open_same(folder: Path, asked: dict[str, Any], tokenizer: str | None) -> Prepared:
    """The finished result of a request, verified. `asked` has the manifest's keys that identify the request.

    `tokenizer` is the fingerprint of the tokenizer in the request; None where a new one is trained. Raises InputError,
    which names the differences, where the folder holds the result of another request.
    """
    prepared = open_prepared(folder)
    before = {key: prepared.manifest.get(key, asked[key]) for key in asked}  # earlier versions wrote fewer keys
    if isinstance(before["request"], dict) and "sources" in before["request"]:
        before["request"] = completed(Data, before["request"])
    different = changes(before["request"], asked["request"], _EXECUTION)
    if tokenizer not in (None, prepared.manifest["tokenizer"]):
        different.append("another tokenizer")
    if before.get("new_tokenizer") != asked.get("new_tokenizer"):
        different.append("another new tokenizer")
    if not different and before.get("inputs") != asked.get("inputs"):
        different.append("files with text were changed since, or there are more or fewer")
    if different:
        what = f"holds data of another request: {', '.join(different[:3])}"
        raise InputError(str(folder), what, "give another folder, or remove it")
    prepared.verify()
    return prepared


def opened(folder: Path, manifest: dict[str, Any]) -> Prepared:
    """The data of a manifest; its files are relative to `folder`. Raises InputError as `open_prepared` does."""

    def check(is_right: bool, what: str) -> None:
        if not is_right:
            raise InputError(str(folder / MANIFEST), what, _REMEDY)

    check(isinstance(manifest, dict), "damaged: no mapping of keys")
    version, dtype = manifest.get("format"), str(manifest.get("dtype"))
    check(version == FORMAT, f"format {version}, this version reads {FORMAT}")
    check(dtype in DTYPES, f"tokens of type {dtype}, legal are {', '.join(DTYPES)}")

    def listed(key: str) -> dict[str, list[Shard]]:
        return {
            split: [
                Shard(folder / entry["file"], entry["tokens"], entry["sha256"], entry.get("offset", 0))
                for entry in manifest[key][split]
            ]
            for split in SPLITS
        }

    try:
        for key in _FACTS:
            manifest[key]
        shards, marks = listed("shards"), None if manifest.get("marks") is None else listed("marks")
    except (KeyError, TypeError) as error:
        raise InputError(str(folder / MANIFEST), f"damaged: it has no {error}", _REMEDY) from None
    remedy = manifest.get("remedy", _REMEDY)

    def tokens(split: str) -> Tokens:
        own = None if marks is None else Tokens(marks[split], "uint8", remedy)
        return Tokens(shards[split], dtype, remedy, own)

    return Prepared(folder, manifest, {split: tokens(split) for split in SPLITS})


def check_tokenizer(prepared: Prepared, tokenizer: "PreTrainedTokenizerBase", place: str) -> None:
    """Raise InputError unless this tokenizer made the tokens of the data."""
    if fingerprint(tokenizer) != prepared.manifest["tokenizer"]:
        what = f"the data in {prepared.folder} was made with another tokenizer"
        raise InputError(place, what, "prepare it with this model's tokenizer")


def check_vocabulary(prepared: Prepared, vocabulary: int, place: str) -> None:
    """Raise InputError when the data holds a token that the model does not embed."""
    largest = prepared.manifest["largest_token"]
    if largest >= vocabulary:
        what = f"tokenizer and model do not fit: the data has token {largest}, the model embeds {vocabulary}"
        raise InputError(place, what, "prepare the data with the model's own tokenizer")


def packing_of(
    prepared: Prepared, tokenizer: "PreTrainedTokenizerBase | None", *, attention: str = "sequence",
    prefix: str = "auto",
) -> Packing:  # fmt: skip
    """How prepared data becomes the input of a model whose own tokenizer is `tokenizer` (None: unknown, no prefix).

    `attention` is `sequence` or `document`. `prefix` is `none` or `auto`: the tokens that the tokenizer puts before a
    text, unless the data were prepared with `prefix: none`. Conversations have none, as their template has a beginning
    of its own. Raises InputError for another value, and where attention must stay inside documents whose ends are
    unknown.
    """
    check_prefix(prefix, "prefix")
    if prefix == "none" or prepared.manifest.get("prefix") == "none" or prepared.has_conversations:
        tokenizer = None
    end = prepared.end_of_text if attention == "document" else prepared.manifest["end_of_text"]
    own = () if tokenizer is None else prefix_tokens(tokenizer)
    long: Long = prepared.manifest["request"]["long_conversations"] if prepared.has_conversations else "truncate"
    return Packing(own, end, attention == "document", long)


def check_prefix_fits(packing: Packing, vocabulary: int, place: str) -> None:
    """Raise InputError where the prefix has a token that the model does not embed."""
    if max(packing.prefix, default=0) >= vocabulary:
        what = f"its tokenizer puts token {max(packing.prefix)} before a text, and the model embeds {vocabulary}"
        raise InputError(place, what, "give the model's own tokenizer, or prefix: none")


def check_prefix(prefix: str, place: str) -> None:
    """Raise InputError unless `prefix` is `auto` or `none`."""
    if prefix not in ("auto", "none"):
        raise InputError(place, f"got {prefix!r}", "give auto (the prefix of the model's tokenizer) or none")
