"""Sequences in an order that is a pure function of seed, epoch and position: no table, no state, O(1) to resume."""

import hashlib
from typing import Any

import numpy as np

from inheritune.errors import InputError

Tokens = np.ndarray[Any, np.dtype[Any]]


class Sequences:
    """A row of tokens cut into sequences of T + 1, each beginning with the last token of the one before.

    So every token but the first is predicted exactly once; what does not fill a last sequence is left out.
    """

    def __init__(self, tokens: Tokens, sequence_length: int, place: str) -> None:
        """Raises InputError when there are too few tokens for one sequence."""
        self.tokens, self.sequence_length = tokens, sequence_length
        self.count = (len(tokens) - 1) // sequence_length
        if self.count < 1:
            raise InputError(
                place,
                f"{len(tokens)} tokens do not fill one sequence of {sequence_length}",
                "give more text, or a smaller train.sequence_length",
            )

    def rows(self, numbers: "list[int] | range") -> "np.ndarray[Any, np.dtype[np.int64]]":
        """The sequences of these numbers, shape (B, T + 1)."""
        length = self.sequence_length
        return np.stack([self.tokens[n * length : n * length + length + 1] for n in numbers]).astype(np.int64)


def sequence_number(position: int, count: int, seed: int) -> int:
    """Which of `count` sequences stands at `position` (from 0) of a training; every epoch is a shuffle of its own."""
    epoch, place = divmod(position, count)
    return shuffled(place, count, seed, epoch)


def shuffled(place: int, count: int, seed: int, epoch: int) -> int:
    """The image of `place` under a permutation of range(count) keyed by (seed, epoch).

    A four-round Feistel network on the smallest even number of bits that holds `count`, walked until the image lies
    in range (cycle walking; Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = place >> half, place & mask
        for turn in range(4):
            key = b"%d,%d,%d,%d" % (seed, epoch, turn, right)
            mixed = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
            left, right = right, left ^ (mixed & mask)
        place = left << half | right
        if place < count:
            return place


def batch_numbers(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The sequences of optimizer step `step` (from 0), whoever computes it and in whatever micro-batches."""
    return [sequence_number(position, count, seed) for position in range(step * batch, (step + 1) * batch)]
