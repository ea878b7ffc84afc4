"""Weights that are no numbers (NaN), found before they are written on."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from inheritune.arch.stored import StoredTensor
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
    _refuse((name for name, tensor in model.state_dict().items() if _has_nan(tensor)), place)


def check_stored_numbers(tensors: Iterable[StoredTensor], place: str) -> None:
    """As `check_numbers`, for tensors in files."""
    _refuse((tensor.name for tensor in tensors if _stored_has_nan(tensor)), place)


def _refuse(names: Iterable[str], place: str) -> None:
    found = list(names)
    if found:
        shown = ", ".join(found[:3]) + (" ..." if len(found) > 3 else "")
        raise InputError(place, f"{len(found)} tensors hold NaN, which is no number ({shown})", _REMEDY)


def _ranges(count: int) -> Iterator[tuple[int, int]]:
    """First element and number of elements of each block that is looked at."""
    if count <= _WHOLE:
        yield 0, count
        return
    size = _WHOLE // _BLOCKS
    for number in range(_BLOCKS):
        yield number * (count - size) // (_BLOCKS - 1), size


def _has_nan(tensor: "torch.Tensor") -> bool:
    import torch

    if not tensor.is_floating_point() or tensor.is_meta:
        return False
    row = tensor.detach().reshape(-1)
    return any(bool(torch.isnan(row[start : start + size].float()).any()) for start, size in _ranges(row.numel()))


def _stored_has_nan(tensor: StoredTensor) -> bool:
    import torch

    kinds = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    kind = kinds.get(tensor.dtype)
    if kind is None or not tensor.bytes:
        return False
    with tensor.file.open("rb") as file:
        for start, size in _ranges(tensor.bytes // kind.itemsize):
            file.seek(tensor.start + start * kind.itemsize)
            read = bytearray(file.read(size * kind.itemsize))
            if bool(torch.isnan(torch.frombuffer(read, dtype=kind)).any()):
                return True
    return False
