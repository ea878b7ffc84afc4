"""The format of the outputs for one sequence: 16-bit words, so that each sequence has a known place on the disk."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inheritune.data import Array
from inheritune.losses import TeacherNeeds


@dataclass(frozen=True)
class Layout:
    """The arrays (T, columns) of a sequence, one after the other, little-endian.

    - The distribution, as the final hidden states, (T, `states`), or as the `top_k` most probable entries: their
      log-probabilities and that of all others together in float16, (T, K + 1), and their indices, (T, K), in uint16
      where the vocabulary allows it, else uint32. Neither, where no loss needs it.
    - The hidden states (T, `hidden_size`) of each of `blocks`.

    Hidden states have the teacher's own `precision`, so storing them rounds nothing. The arrays of bfloat16 are int16,
    as numpy has no bfloat16.
    """

    sequence_length: int
    vocabulary: int
    precision: str
    states: int = 0
    top_k: int | None = None
    hidden_size: int = 0
    blocks: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, needs: TeacherNeeds, sequence_length: int, vocabulary: int, states: int, hidden_size: int, precision: str
    ) -> "Layout":
        """What takes least: the `top_k` entries or the final hidden states, of so many `states` a token."""
        blocks = tuple(sorted(needs.hidden_states))
        none = cls(sequence_length, vocabulary, precision, hidden_size=hidden_size, blocks=blocks)
        if needs.temperature is None:
            return none
        exact = replace(none, states=states)
        few = None if needs.top_k is None else replace(none, top_k=needs.top_k)
        return exact if few is None or exact.size <= few.size else few

    @property
    def arrays(self) -> list[tuple["np.dtype[Any]", int]]:
        """Type and columns of each array."""
        kind = np.dtype("<f4" if self.precision == "float32" else "<i2")
        found = [(kind, self.states)] if self.states else []
        if self.top_k is not None:
            index = np.dtype("<u2" if self.vocabulary <= 2**16 else "<u4")
            found += [(np.dtype("<f2"), min(self.top_k + 1, self.vocabulary)), (index, self.top_k)]
        return found + [(kind, self.hidden_size)] * len(self.blocks)

    @property
    def size(self) -> int:
        """Bytes of a sequence."""
        return self.sequence_length * sum(kind.itemsize * columns for kind, columns in self.arrays)

    @property
    def words(self) -> int:
        """16-bit words of a sequence."""
        return self.size // 2

    def pack(self, arrays: Sequence[Array]) -> bytes:
        """The bytes of the arrays (T, columns) of one sequence."""
        packed = b""
        for array, (kind, columns) in zip(arrays, self.arrays, strict=True):
            assert array.shape == (self.sequence_length, columns)
            packed += np.ascontiguousarray(array, kind).tobytes()
        return packed

    def unpack(self, words: Array) -> list[Array]:
        """The arrays (B, T, columns), of words (B, words)."""
        arrays, first = [], 0
        for kind, columns in self.arrays:
            last = first + self.sequence_length * columns * kind.itemsize // 2
            array = np.ascontiguousarray(words[:, first:last]).view(kind)
            arrays.append(array.reshape(len(words), self.sequence_length, columns))
            first = last
        return arrays
