"""Weights that are no numbers (NaN), found before they are written on."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from inheritune.arch.stored import FLOATS, StoredTensor
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_WHOLE = 2**20  # elements; of a larger tensor so many are looked at, in blocks spread evenly over it
_BLOCKS = 16
_REMEDY = "get the checkpoint again, or one from before its training diverged"


def check_numbers(model: "PreTrainedModel", place: str) -> None:
    """Raise InputError where a tensor of `model` holds NaN.

    Of a tensor of more than 2^20 elements 2^20 are looked at, spread evenly over it: a training that diverged leaves
    NaN everywhere, and reading all would take longer than inheriting.
    """
    _refuse((name for name, tensor in model.state_dict().items() if _have_nan(_pieces(tensor))), place)


def check_stored_numbers(tensors: Iterable[StoredTensor], place: str) -> None:
    """As `check_numbers`, for tensors in files."""
    _refuse((tensor.name for tensor in tensors if _have_nan(_stored_pieces(tensor))), place)


def _refuse(names: Iterable[str], place: str) -> None:
    listed = list(names)
    if listed:
        shown = ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")
        raise InputError(place, f"{len(listed)} tensors hold NaN, which is no number ({shown})", _REMEDY)


def _have_nan(pieces: "Iterable[torch.Tensor]") -> bool:
    return any(bool(piece.isnan().any()) for piece in pieces)


def _spans(count: int) -> Iterator[tuple[int, int]]:
    """First element and number of elements of each block that is looked at."""
    if count <= _WHOLE:
        yield 0, count
        return
    size = _WHOLE // _BLOCKS
    for number in range(_BLOCKS):
        yield number * (count - size) // (_BLOCKS - 1), size


def _pieces(tensor: "torch.Tensor") -> "Iterator[torch.Tensor]":
    if tensor.is_floating_point() and not tensor.is_meta:
        row = tensor.detach().reshape(-1)
        yield from (row[start : start + size].float() for start, size in _spans(row.numel()))


def _stored_pieces(tensor: StoredTensor) -> "Iterator[torch.Tensor]":
    import torch

    if tensor.dtype not in FLOATS or not tensor.bytes:
        return
    kind: torch.dtype = getattr(torch, FLOATS[tensor.dtype])
    with tensor.file.open("rb") as file:
        for start, size in _spans(tensor.bytes // kind.itemsize):
            file.seek(tensor.start + start * kind.itemsize)
            yield torch.frombuffer(bytearray(file.read(size * kind.itemsize)), dtype=kind)
