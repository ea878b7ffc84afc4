"""Conversations as tokens: a mark for each token, and the conversations that share a sequence."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from inheritune.data.shards import Array, Tokens

COUNTS = 1
"""The mark of a token that is a target."""
BEGINS = 2
"""The mark of the first token of a conversation, which nothing predicts."""
Long = Literal["truncate", "drop", "split"]
"""What happens to a conversation that is longer than a sequence."""
_BLOCK = 2**24  # marks read at once


@dataclass(frozen=True)
class MarkedTokens:
    """A row of tokens in memory, and the mark of each, both of shape (N,)."""

    tokens: Array
    marks: Array

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True)
class Placement:
    """Which tokens each of N sequences holds: `sizes_N` tokens from `starts_N` on.

    `conversations` is their number, `longer` how many of them exceed a sequence, `left_out` the number of tokens that
    no sequence holds.
    """

    starts_N: Array
    sizes_N: Array
    conversations: int
    longer: int
    left_out: int


def place_conversations(marks: Tokens | Array, size: int, long: Long) -> Placement:
    """Place the conversations of a row, in their order, into sequences of at most `size` tokens.

    A sequence begins with a conversation and takes the next ones as long as all of each fits. Of a conversation of more
    than `size` tokens, `truncate` keeps the beginning and `drop` nothing; `split` divides it over sequences of its own,
    each of which begins with the last token of the one before.
    """
    begins = np.concatenate([np.zeros(0, np.int64), *_begins(marks)])
    ends = np.append(begins[1:], len(marks))[: len(begins)]
    starts, sizes, longer, left_out, at = list[int](), list[int](), 0, 0, 0
    while at < len(begins):
        start = int(begins[at])
        after = int(np.searchsorted(ends, start + size, side="right"))
        if after > at:
            starts.append(start)
            sizes.append(int(ends[after - 1]) - start)
            at = after
            continue
        length = int(ends[at]) - start
        firsts = {"truncate": range(1), "drop": range(0), "split": range(0, length - 1, size - 1)}[long]
        starts += [start + first for first in firsts]
        sizes += [min(size, length - first) for first in firsts]
        left_out += {"truncate": length - size, "drop": length, "split": 0}[long]
        longer, at = longer + 1, at + 1
    return Placement(np.array(starts, np.int64), np.array(sizes, np.int64), len(begins), longer, left_out)


def _begins(marks: Tokens | Array) -> Iterator[Array]:
    for first in range(0, len(marks), _BLOCK):
        count = min(_BLOCK, len(marks) - first)
        block = marks.read(first, count) if isinstance(marks, Tokens) else marks[first : first + count]
        yield first + np.flatnonzero(block & BEGINS)


def placed_rows(row: Tokens | Array, starts_B: Array, sizes_B: Array, size: int, fill: int) -> Array:
    """The `sizes_B` values of a row from each of `starts_B` on, filled up to `size` values, shape (B, size)."""
    width = min(size, len(row))
    firsts_B = np.minimum(starts_B, len(row) - width)  # a window that begins later would end behind the row
    if isinstance(row, Tokens):
        windows = row.rows(firsts_B, width).astype(np.int64)
    else:
        windows = row[firsts_B[:, None] + np.arange(width)].astype(np.int64)
    places = (starts_B - firsts_B)[:, None] + np.arange(size)
    rows: Array = np.take_along_axis(windows, np.minimum(places, width - 1), axis=1)
    rows[np.arange(size) >= sizes_B[:, None]] = fill
    return rows
