"""fastText models on disk: their labels, and whether a file is whole, without loading it."""

import struct
from pathlib import Path
from typing import BinaryIO

from inheritune.errors import InputError
from inheritune.limits import check_regular

_MAGIC, _VERSIONS = 793712314, (11, 12)
_LABEL = "__label__"


class _CutShort(Exception):
    """The file ends before what its header announces."""


def read_labels(path: Path, place: str) -> list[str]:
    """The labels of a fastText model, without `__label__`.

    The file's own sizes are followed to its end, as fastText itself crashes on a file that was cut short, or loads it
    and gives wrong labels. Raises InputError at `place` for a file that is missing, no supervised model, or not whole.
    """
    try:
        size = check_regular(path)
        with path.open("rb") as file:
            magic, version = _take(file, "<ii") if size >= 8 else (0, 0)
            if magic != _MAGIC:
                raise InputError(place, f"{path} is not a fastText model", "give what fastText's save_model wrote")
            if version not in _VERSIONS:
                known = f"version {version} of fastText's format is not known"
                raise InputError(place, f"{path}: {known}", "save the model with fastText 0.9")
            labels = _read_dictionary(file)
            _skip_matrices(file, size)
    except OSError as error:
        raise InputError(place, f"{path} cannot be read ({error.strerror})", "give the path of a model file") from None
    except _CutShort:
        raise InputError(place, f"{path} was cut short or is damaged", "fetch it again") from None
    if not labels:
        raise InputError(place, f"{path} has no labels", "give a supervised model: word vectors classify nothing")
    return labels


def _take(file: BinaryIO, layout: str) -> tuple[int, ...]:
    raw = file.read(struct.calcsize(layout))
    if len(raw) < struct.calcsize(layout):
        raise _CutShort
    return struct.unpack(layout, raw)


def _read_dictionary(file: BinaryIO) -> list[str]:
    """Past the settings (12 int32, a double) and the entries; the labels are the entries of type 1."""
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


def _skip_matrices(file: BinaryIO, size: int) -> None:
    """Past the input matrix and the output matrix, each of them plain or quantised."""
    (quantised,) = _take(file, "<?")
    _skip_matrix(file, quantised)
    (output_too,) = _take(file, "<?")
    _skip_matrix(file, quantised and output_too)
    if file.tell() > size:
        raise _CutShort


def _skip_matrix(file: BinaryIO, quantised: int) -> None:
    if not quantised:
        rows, columns = _take(file, "<qq")
        _skip(file, 4 * rows * columns)
        return
    (norms,) = _take(file, "<?")
    rows, _, codes = _take(file, "<qqi")
    _skip(file, codes)
    _skip_quantizer(file)
    if norms:
        _skip(file, rows)
        _skip_quantizer(file)


def _skip_quantizer(file: BinaryIO) -> None:
    """256 centroids of float32 per dimension."""
    dimensions, *_ = _take(file, "<4i")
    _skip(file, 4 * 256 * dimensions)


def _skip(file: BinaryIO, count: int) -> None:
    if count < 0:
        raise _CutShort
    file.seek(count, 1)
