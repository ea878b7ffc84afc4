"""The header of a .gguf file: its metadata, and its tensors by name."""

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from inheritune.errors import InputError
from inheritune.limits import GGUF_ENTRIES, GGUF_TENSORS, GGUF_VALUES, check_counts

REMEDY = "give the checkpoint that the file was made from"
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that scale rotary frequencies, with a number for each frequency."""


@dataclass(frozen=True)
class GgufHeader:
    """The header of the file `place`. Its metadata excludes those keys of `tokenizer.*` that hold lists."""

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
            raise self.refusal(name, f"got {value!r}, not a number", "get the file again")
        return float(value)

    def refusal(self, name: str, what: str, remedy: str = REMEDY) -> InputError:
        """The error that refuses the architecture's key `name`."""
        return InputError(f"{self.place}: {self.architecture}.{name}", what, remedy)


def read_gguf(file: Path) -> GgufHeader:
    """The header of a file, read once for each change of the file.

    Raises InputError where it is damaged, and for one of several files that make a model together.
    """
    header = _read(str(file), file.stat().st_mtime_ns)
    if isinstance(header, str):
        raise InputError(str(file), f"damaged or cut short ({header})", "get the file again")
    check_counts(header.metadata, str(file))
    stored = 1 + max((int(name.split(".")[1]) for name in header.shapes if re.match(r"blk\.\d+\.", name)), default=0)
    if header.number("block_count", stored) > stored:
        what = f"{header.get('block_count')} blocks, and tensors of {stored}"
        raise InputError(f"{file}: {header.architecture}.block_count", what, "get the file again")
    if int(header.metadata.get("split.count", 1) or 1) > 1:
        what = f"one of {header.metadata['split.count']} files that make a model together (split.count)"
        raise InputError(str(file), what, "merge them into one with llama-gguf-split --merge")
    return header


@lru_cache(maxsize=8)
def _read(file: str, changed: int) -> "GgufHeader | str":
    """The header, or what is wrong with the file."""
    import numpy as np
    from gguf import dequantize

    from inheritune.arch.gguf_reader import FastReader

    try:
        _check_sizes(Path(file))
        reader = FastReader(file)
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
    except Exception as error:  # the reader trusts the file, so damage raises errors of any class
        return str(error) or type(error).__name__
    return GgufHeader(file, metadata, shapes, rope, same)


_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
_TEXT, _ARRAY = 8, 9
_DEEPEST = 4  # arrays inside each other


def _check_sizes(file: Path) -> None:
    """Raise ValueError where a file's counts exceed the limits, or its metadata goes beyond its end.

    The library that reads it trusts the counts: it would run for hours, or fill the memory.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        order = "<" if struct.unpack_from("<I", content, 4)[0] & 0xFFFF else ">"
        tensors, entries = struct.unpack_from(f"{order}QQ", content, 8)
        for what, count, most in (("tensors", tensors, GGUF_TENSORS), ("entries", entries, GGUF_ENTRIES)):
            if count > most:
                raise ValueError(f"{count:,} {what}, at most {most:,} are taken")
        _Walk(content, order).entries(entries)


class _Walk:
    """Steps over the metadata of a .gguf file without keeping a value."""

    def __init__(self, content: mmap.mmap, order: str) -> None:
        self.content, self.at, self.values = content, 24, 0  # after magic, version and the two counts
        self.long, self.kind = struct.Struct(f"{order}Q"), struct.Struct(f"{order}I")

    def entries(self, count: int) -> None:
        for _ in range(count):
            self._skip(self._number(self.long))  # the name
            self._value(self._number(self.kind), 0)

    def _value(self, kind: int, depth: int) -> None:
        if kind == _TEXT:
            self._skip(self._number(self.long))
        elif kind == _ARRAY:
            inner, count = self._number(self.kind), self._number(self.long)
            self.values += count
            if depth == _DEEPEST:
                raise ValueError(f"more than {_DEEPEST} arrays inside each other")
            if self.values > GGUF_VALUES:
                raise ValueError(f"arrays of {self.values:,} values, at most {GGUF_VALUES:,} are taken")
            if inner in _SIZES:
                self._skip(count * _SIZES[inner])
            else:
                for _ in range(count):
                    self._value(inner, depth + 1)
        elif kind in _SIZES:
            self._skip(_SIZES[kind])
        else:
            raise ValueError(f"a value of type {kind}, which does not exist")

    def _number(self, form: struct.Struct) -> int:
        number: int = form.unpack_from(self.content, self.at)[0]
        self.at += form.size
        return number

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.content):
            raise ValueError("its metadata goes beyond its end")
