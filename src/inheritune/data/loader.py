"""Sequences in an order that is a pure function of seed, epoch and position: no table, no state, O(1) to resume."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch

IGNORED = -100  # torch's mark for a target that counts nothing
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


@dataclass(frozen=True)
class MicroBatch:
    """Inputs and targets (B, T); rows beyond the sequences of these `numbers` fill up B, and count nothing."""

    numbers: list[int]
    inputs: "torch.Tensor"
    targets: "torch.Tensor"


class Batches:
    """The batches of a training as one of several processes sees them, read ahead by one in a thread.

    All micro-batches have the same shape, and every process has as many of them.
    """

    def __init__(
        self, sequences: Sequences, batch: int, seed: int, *, rank: int = 0, processes: int = 1, pin: bool = False
    ) -> None:
        self.sequences, self.batch, self.seed, self.rank, self.pin = sequences, batch, seed, rank, pin
        self.share = -(-batch // processes)
        self._reader: ThreadPoolExecutor | None = None
        self._next: tuple[tuple[int, int], Future[list[MicroBatch]]] | None = None

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Inside, the batch after the one that was asked for is read in the background."""
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        try:
            yield
        finally:
            self._reader.shutdown(wait=True)
            self._reader = self._next = None

    def micro_batches(self, batch: int, size: int) -> list[MicroBatch]:
        """The process's share of the batch of this number, `size` sequences at a time."""
        ready, self._next = self._next, None
        found = ready[1].result() if ready is not None and ready[0] == (batch, size) else self._read(batch, size)
        if self._reader is not None:
            self._next = (batch + 1, size), self._reader.submit(self._read, batch + 1, size)
        return found

    def _read(self, batch: int, size: int) -> list[MicroBatch]:
        numbers = batch_numbers(batch, self.batch, self.sequences.count, self.seed)
        mine = numbers[self.rank * self.share : (self.rank + 1) * self.share]
        return [self._micro_batch(mine[at : at + size], size) for at in range(0, self.share, size)]

    def _micro_batch(self, numbers: list[int], size: int) -> MicroBatch:
        import torch

        rows = torch.from_numpy(self.sequences.rows([*numbers, *[0] * (size - len(numbers))]))
        inputs_BT, targets_BT = rows[:, :-1], rows[:, 1:].clone()
        targets_BT[len(numbers) :] = IGNORED
        if self.pin:
            inputs_BT, targets_BT = inputs_BT.contiguous().pin_memory(), targets_BT.pin_memory()
        return MicroBatch(numbers, inputs_BT, targets_BT)
