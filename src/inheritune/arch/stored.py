"""Tensors in safetensors files: what the headers say about them, and reading them on demand."""

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch.checkpoint_files import check_safetensors
from inheritune.arch.selection import Runs, lengths
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch

FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_TEXT_PART = "language_model"  # a component of the names of a composite's tensors
_CHUNK = 2**23
_MANY_RUNS = 16


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, as the header describes it: `dtype` in safetensors' words, first byte, length in bytes."""

    name: str
    file: Path
    shape: tuple[int, ...]
    dtype: str
    start: int
    bytes: int
    factors: "StoredTensor | None" = None
    """What the file's FP8 numbers are multiplied by to give those of `dtype`."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a factor; None for one factor in all."""

    def equals(self, other: "StoredTensor") -> bool:
        """Whether both have the same bytes, compared in pieces that take little memory."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        with self.file.open("rb") as left, other.file.open("rb") as right:
            left.seek(self.start)
            right.seek(other.start)
            for at in range(0, self.bytes, _CHUNK):
                length = min(_CHUNK, self.bytes - at)
                if left.read(length) != right.read(length):
                    return False
        return True

    def lazy(self, files: Mapping[Path, Any], indices: tuple[Runs, ...] | None = None) -> Any:
        """A slice that reads the tensor, or `indices` along each dimension, when it is asked for its content.

        `files` are opened by safetensors. Of numbers without factors only `indices` are read; columns that are
        scattered are read with all between them.
        """
        if self.factors is not None:
            return _Scaled(self, files, indices)
        return files[self.file].get_slice(self.name) if indices is None else _Part(self, indices)


@dataclass(frozen=True)
class _Part:
    """Indices of a tensor along each dimension, read when transformers' loader asks for its content.

    safetensors' own slices read the whole tensor (0.8), four times what half the width takes of a matrix.
    """

    tensor: StoredTensor
    indices: tuple[Runs, ...]

    def __getitem__(self, _: Any) -> "torch.Tensor":
        import torch

        size = self.tensor.bytes // prod(self.tensor.shape)
        whole = [((0, length),) for length in self.tensor.shape]
        scattered = [at > 0 and len(runs) > _MANY_RUNS for at, runs in enumerate(self.indices)]  # one read for all
        read = tuple(whole[at] if scattered[at] else runs for at, runs in enumerate(self.indices))
        content = memoryview(bytearray(prod(lengths(read)) * size))
        at = 0
        with self.tensor.file.open("rb", buffering=0) as file:
            for start, length in self._spans(read, size):
                stop = start + length
                while start < stop:
                    done = os.preadv(file.fileno(), [content[at : at + stop - start]], self.tensor.start + start)
                    if done == 0:
                        raise OSError(errno.EIO, "the file ended before its tensors did", str(self.tensor.file))
                    start, at = start + done, at + done
        tensor = torch.frombuffer(content, dtype=getattr(torch, FLOATS[self.tensor.dtype])).view(lengths(read))
        for at, runs in enumerate(self.indices):
            tensor = take(tensor, at, runs) if scattered[at] else tensor
        return tensor

    def _spans(self, indices: tuple[Runs, ...], unit: int) -> Iterator[tuple[int, int]]:
        """First byte and length of each contiguous run of numbers of `unit` bytes."""
        dimensions = list(zip(self.tensor.shape, indices, strict=True))
        while len(dimensions) > 1 and dimensions[-1][1] == ((0, dimensions[-1][0]),):
            unit *= dimensions.pop()[0]
        *outer, (length, inner) = dimensions
        strides = [prod(size for size, _ in (*outer[at + 1 :], (length, inner))) for at in range(len(outer))]
        for places in product(*([i for start, stop in along for i in range(start, stop)] for _, along in outer)):
            base = sum(index * stride for index, stride in zip(places, strides, strict=True))
            for start, stop in inner:
                yield (base + start) * unit, (stop - start) * unit


def take(tensor: "torch.Tensor", dimension: int, runs: Runs) -> "torch.Tensor":
    """The indices of a tensor along one dimension, copied."""
    import torch

    if len(runs) > _MANY_RUNS:
        indices = torch.cat([torch.arange(start, stop, device=tensor.device) for start, stop in runs])
        return tensor.index_select(dimension, indices)
    return torch.cat([tensor.narrow(dimension, start, stop - start) for start, stop in runs], dimension)


@dataclass(frozen=True)
class _Scaled:
    """A lazy FP8 tensor times its factors, or `indices` of it along each dimension."""

    tensor: StoredTensor
    files: Mapping[Path, Any]
    indices: tuple[Runs, ...] | None

    def __getitem__(self, _: Any) -> "torch.Tensor":
        import torch

        stored, block = self.tensor.factors, self.tensor.block
        assert stored is not None
        values = self.files[self.tensor.file].get_tensor(self.tensor.name).float()
        factors = self.files[stored.file].get_tensor(stored.name)
        factors = (factors.float() - 127).exp2() if factors.dtype == torch.uint8 else factors.float()
        if block is not None:
            for dimension, size in zip((-2, -1), block, strict=True):
                factors = factors.repeat_interleave(size, dimension).narrow(dimension, 0, values.shape[dimension])
        scaled: torch.Tensor = (values * factors).to(getattr(torch, FLOATS[self.tensor.dtype]))
        for dimension, runs in enumerate(self.indices or ()):
            scaled = take(scaled, dimension, runs)
        return scaled


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of a checkpoint's safetensors files, and the names of those in files that were not fetched."""

    place: str
    tensors: Mapping[str, StoredTensor]
    elsewhere: frozenset[str] = frozenset()
    is_text_part: bool = False
    """Whether these are the text part of a composite."""
    dropped: tuple[str, ...] = ()
    """The names of a composite's other tensors, those of parts that see or hear."""

    @classmethod
    def open(cls, place: str, files: tuple[Path, ...], index: Mapping[str, str] | None = None) -> "StoredWeights":
        """Read the headers of `files`; `index` gives the file of each of the checkpoint's tensors.

        Raises InputError for a damaged file, and where index and files contradict each other.
        """
        tensors: dict[str, StoredTensor] = {}
        for file in files:
            for tensor in _header(file):
                if tensor.name in tensors:
                    other = tensors[tensor.name].file.name
                    raise InputError(f"{file}: {tensor.name}", f"stored in {other} too", "get the files again")
                tensors[tensor.name] = tensor
        names = {file.name for file in files}
        for name, holder in (index or {}).items():
            if Path(holder).name in names and (name not in tensors or tensors[name].file.name != Path(holder).name):
                raise InputError(
                    f"{place}: {name}", f"not in {holder}, where the index says that it is", "get the files again"
                )
        return cls(place, tensors, frozenset(index or ()) - tensors.keys())

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of the first floating tensor."""
        import torch

        for tensor in self.tensors.values():
            if tensor.dtype in FLOATS:
                dtype: torch.dtype = getattr(torch, FLOATS[tensor.dtype])
                return dtype
        raise InputError(
            self.place, "no tensor of floating-point numbers", "get a checkpoint whose weights fit its config"
        )


def text_name(stored: str) -> str:
    """The name of a composite's tensor in its text part alone: without the component `language_model`."""
    return ".".join(part for part in stored.split(".") if part != _TEXT_PART)


def text_part(weights: StoredWeights) -> StoredWeights:
    """The tensors of a composite's text part (below `language_model`, and a head beside it), under `text_name`s."""
    tensors = {
        text_name(name): tensor
        for name, tensor in weights.tensors.items()
        if _TEXT_PART in name.split(".") or name.startswith("lm_head.")
    }
    away = frozenset(text_name(name) for name in weights.elsewhere if _TEXT_PART in name.split("."))
    taken = {tensor.name for tensor in tensors.values()}
    dropped = tuple(name for name in weights.tensors if name not in taken) if tensors else ()
    return StoredWeights(weights.place, tensors or weights.tensors, away, is_text_part=True, dropped=dropped)


def _header(file: Path) -> list[StoredTensor]:
    """The tensors of a file. Raises InputError where it is damaged."""
    from huggingface_hub import parse_local_safetensors_file_metadata

    check_safetensors(file)
    header = parse_local_safetensors_file_metadata(file)
    with file.open("rb") as opened:
        first = 8 + int.from_bytes(opened.read(8), "little")  # the header's length precedes the header
    return [
        StoredTensor(name, file, tuple(tensor.shape), tensor.dtype, first + start, stop - start)
        for name, tensor in header.tensors.items()
        for start, stop in [tensor.data_offsets]
    ]
