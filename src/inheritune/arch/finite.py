"""Finding weights that are NaN before they are written."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from inheritune.arch.stored import FLOATS, StoredTensor
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_WHOLE = 2**20  # elements; of a larger tensor so many are sampled, in blocks spread evenly over it
_BLOCKS = 16


def check_numbers(model: "PreTrainedModel", place: str) -> None:
    """Raise InputError where a tensor of `model` holds NaN.

    Of a tensor of more than 2^20 elements 2^20 are sampled, spread evenly over it: a training that diverged leaves NaN
    everywhere, and reading all would take longer than inheriting.
    """
    _check(((name, _pieces(tensor)) for name, tensor in model.state_dict().items()), place)


def check_stored_numbers(tensors: Iterable[StoredTensor], place: str) -> None:
    """As `check_numbers`, for tensors in files."""
    _check(((tensor.name, _stored_pieces(tensor)) for tensor in tensors), place)


def _check(tensors: "Iterable[tuple[str, Iterator[torch.Tensor]]]", place: str) -> None:
    names = [name for name, pieces in tensors if any(bool(piece.isnan().any()) for piece in pieces)]
    if names:
        shown = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        what = f"{len(names)} tensors hold NaN, which is no number ({shown})"
        raise InputError(place, what, "get the checkpoint again, or one from before its training diverged")


def _spans(count: int) -> Iterator[tuple[int, int]]:
    """First element and number of elements of each block to sample."""
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
