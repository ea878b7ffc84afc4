"""fastText models on disk: their labels, and whether a file is complete, without loading it."""

import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

from inheritune.corpus.filters.words import missing_packages
from inheritune.errors import InputError
from inheritune.limits import check_regular

_MAGIC, _VERSIONS = 793712314, (11, 12)
_LABEL = "__label__"
_PACKAGES = {"fasttext": "fasttext-numpy2-wheel", "fasteners": "fasteners"}


def check_packages(place: str) -> None:
    """Raise InputError at `place` where fastText is not installed."""
    missing_packages(_PACKAGES, place)


def load_model(path: Path) -> Any:
    """A model of the fastText library."""
    from fasttext.FastText import _FastText

    return _FastText(str(path))


def check_labels(labels: Collection[str], place: str, model: Path, model_place: str) -> None:
    """Raise InputError at `place` for labels that a model lacks, and as `read_labels` does."""
    known = read_labels(model, model_place)
    unknown = [label for label in labels if label not in known]
    if unknown:
        shown = ", ".join(sorted(known)[:200])
        raise InputError(place, f"the model has no label {', '.join(unknown)}", f"its labels are {shown}")


def read_labels(path: Path, place: str) -> list[str]:
    """The labels of a fastText model, without `__label__`.

    The sizes in the file are followed to its end, as fastText itself crashes on some files that were cut short, and
    gives wrong labels with others. Raises InputError at `place` for a file that is missing, incomplete, or no
    supervised model.
    """
    try:
        size = check_regular(path)
        with path.open("rb") as file:
            magic, version = _take(file, "<ii") if size >= 8 else (0, 0)
            if magic != _MAGIC:
                raise InputError(place, f"{path} is not a fastText model", "give what fastText's save_model wrote")
            if version not in _VERSIONS:
                unknown = f"version {version} of fastText's format is not known"
                raise InputError(place, f"{path}: {unknown}", "save the model with fastText 0.9")
            labels = _read_dictionary(file)
            (quantised,) = _take(file, "<?")
            _skip_matrix(file, quantised)
            (output_too,) = _take(file, "<?")
            _skip_matrix(file, quantised and output_too)
            if file.tell() > size:
                raise EOFError
    except OSError as error:
        raise InputError(place, f"{path} cannot be read ({error.strerror})", "give the path of a model file") from None
    except EOFError:
        raise InputError(place, f"{path} was cut short or is damaged", "fetch it again") from None
    if not labels:
        raise InputError(place, f"{path} has no labels", "give a supervised model: word vectors classify nothing")
    return labels


def _take(file: BinaryIO, layout: str) -> tuple[int, ...]:
    raw = file.read(struct.calcsize(layout))
    if len(raw) < struct.calcsize(layout):
        raise EOFError
    return struct.unpack(layout, raw)


def _read_dictionary(file: BinaryIO) -> list[str]:
    """The labels: the entries of type 1. Before the entries are the settings, 12 int32 and a double."""
    _take(file, "<12id")
    entries, _, _, _, pruned = _take(file, "<iiiqq")
    labels = []
    for _ in range(entries):
        word = bytearray()
        while byte := _take(file, "<B")[0]:
            word.append(byte)
        if _take(file, "<qb")[1] == 1:
            labels.append(word.decode("utf-8", "replace").removeprefix(_LABEL))
    file.seek(8 * max(pruned, 0), 1)
    return labels


def _skip_matrix(file: BinaryIO, quantised: int) -> None:
    if not quantised:
        rows, columns = _take(file, "<qq")
        _skip(file, 4 * rows * columns)
        return
    (norms,) = _take(file, "<?")
    rows, _, codes = _take(file, "<qqi")
    for size in (codes, rows) if norms else (codes,):
        _skip(file, size)
        dimensions, *_ = _take(file, "<4i")  # of a quantizer: 256 centroids of float32 per dimension
        _skip(file, 4 * 256 * dimensions)


def _skip(file: BinaryIO, count: int) -> None:
    if count < 0:
        raise EOFError
    file.seek(count, 1)
