"""The format of the outputs for one sequence: 16-bit words, so that each sequence has a known place on the disk."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from inheritune.data import Array


@dataclass(frozen=True)
class Layout:
    """A sequence's log-probabilities in float16, (T, K + 1), then its indices, (T, K), little-endian.

    Indices are uint16 where the vocabulary allows it, else uint32. Without `top_k` there are no indices, and the
    log-probabilities are those of the whole vocabulary, (T, V).
    """

    sequence_length: int
    vocabulary: int
    top_k: int | None

    @property
    def columns(self) -> int:
        """Log-probabilities of a token; the last one is that of all entries that are not among the K."""
        return self.vocabulary if self.top_k is None else min(self.top_k + 1, self.vocabulary)

    @property
    def index_type(self) -> "np.dtype[Any]":
        """What an index is stored in."""
        return np.dtype("<u2" if self.vocabulary <= 2**16 else "<u4")

    @property
    def words(self) -> int:
        """16-bit words of a sequence."""
        return self.sequence_length * (self.columns + (self.top_k or 0) * self.index_type.itemsize // 2)

    @property
    def size(self) -> int:
        """Bytes of a sequence."""
        return 2 * self.words

    def pack(self, values: Array, indices: Array | None) -> bytes:
        """The bytes of one sequence, of log-probabilities (T, columns) and indices (T, K)."""
        packed = np.ascontiguousarray(values, "<f2").tobytes()
        return packed if indices is None else packed + np.ascontiguousarray(indices, self.index_type).tobytes()

    def unpack(self, words: Array) -> tuple[Array, Array | None]:
        """Log-probabilities (B, T, columns) in float16 and indices (B, T, K) in int32, of words (B, words)."""
        split = self.sequence_length * self.columns
        shape = (len(words), self.sequence_length)
        values = np.ascontiguousarray(words[:, :split]).view("<f2").reshape(*shape, self.columns)
        if self.top_k is None:
            return values, None
        indices = np.ascontiguousarray(words[:, split:]).view(self.index_type).reshape(*shape, self.top_k)
        return values, indices.astype(np.int32)
