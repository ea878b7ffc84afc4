"""What the header of a .gguf file says: its metadata, and its tensors by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from inheritune.errors import InputError

ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that say how rotary frequencies are scaled, one number for each frequency."""


@dataclass(frozen=True)
class GgufHeader:
    """The header of the file `place`. Of `tokenizer.*` only the keys of single values are among the metadata."""

    place: str
    metadata: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    """For each tensor its shape, in torch's order."""
    rope: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """The content of those of `ROPE_TENSORS` that are there."""
    output_is_embedding: bool = True
    """Whether there is no output matrix but the embedding."""

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, with which its keys begin."""
        return str(self.metadata.get("general.architecture", ""))

    def get(self, name: str, default: Any = None) -> Any:
        """The value of the architecture's key `name`, such as 'rope.freq_base'."""
        return self.metadata.get(f"{self.architecture}.{name}", default)

    def number(self, name: str, default: float) -> float:
        """As `get`, for a single number. Raises InputError for anything else."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            place = f"{self.place}: {self.architecture}.{name}"
            raise InputError(place, f"got {value!r}, not a number", "get the file again")
        return float(value)


def read_gguf(file: Path) -> GgufHeader:
    """The header of a file, which is read once for each time that the file changed: that takes seconds.

    Raises InputError where it is damaged, and for one of several files that make a model together.
    """
    found = _read(str(file), file.stat().st_mtime_ns)
    if isinstance(found, str):
        raise InputError(str(file), f"damaged or cut short ({found})", "get the file again")
    if int(found.metadata.get("split.count", 1) or 1) > 1:
        what = f"one of {found.metadata['split.count']} files that make a model together (split.count)"
        raise InputError(str(file), what, "merge them into one with llama-gguf-split --merge")
    return found


@lru_cache(maxsize=8)
def _read(file: str, changed: int) -> "GgufHeader | str":
    """The header, or what is wrong with the file."""
    import numpy as np
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(file)
        metadata = {
            name: entry.contents()
            for name, entry in reader.fields.items()
            if not (name.startswith("tokenizer.") and len(entry.data) > 1) and not name.startswith("GGUF.")
        }
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        rope = {
            name: tuple(map(float, dequantize(tensors[name].data, tensors[name].tensor_type).reshape(-1)))
            for name in ROPE_TENSORS
            if name in tensors
        }
        output, embedding = tensors.get("output.weight"), tensors.get("token_embd.weight")
        same = output is None or (
            embedding is not None
            and output.tensor_type == embedding.tensor_type
            and output.data.shape == embedding.data.shape
            and all(np.array_equal(a, b) for a, b in zip(output.data, embedding.data, strict=True))
        )
        shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    except Exception as error:  # the reader trusts the file, and stumbles over damage in whatever way comes first
        return str(error) or type(error).__name__
    return GgufHeader(file, metadata, shapes, rope, same)
