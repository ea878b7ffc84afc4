"""The batches of a training: which sequences each process takes, read ahead in a thread."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from inheritune.data.sequences import IGNORED, Examples, Sequences
from inheritune.data.shards import Array

if TYPE_CHECKING:
    import torch

_AHEAD = 4  # batches: they hide a slow read
_SWITCH = 0.001  # seconds until the interpreter leaves a busy thread; the reader needs it after each sequence


@dataclass(frozen=True)
class MicroBatch:
    """Examples of the sequences of these `numbers`; further rows fill the micro-batch and have no targets.

    Windows that begin anywhere have the number of the sequence in which they begin. `counted` is the number of targets
    that count. `stored` are further tensors of the sequences, each with B rows.
    """

    numbers: list[int]
    examples: Examples
    counted: int
    stored: "tuple[torch.Tensor, ...]" = ()


def nothing_stored(starts: Array) -> "tuple[torch.Tensor, ...]":
    """The further tensors of sequences that have none."""
    return ()


class Batches:
    """One process's share of the batches of a training; the next ones are read ahead in a thread.

    All micro-batches have the same number of rows, and every process has the same number of micro-batches. Their rows
    have one length too, except where a prefix is put before the documents inside a sequence. `stored` reads the further
    tensors of the sequences that begin at some tokens of the text.
    """

    def __init__(
        self, sequences: Sequences, batch: int, seed: int, *, rank: int = 0, processes: int = 1, pin: bool = False,
        stored: "Callable[[Array], tuple[torch.Tensor, ...]]" = nothing_stored,
    ) -> None:  # fmt: skip
        self.sequences, self.batch, self.seed, self.rank, self.pin = sequences, batch, seed, rank, pin
        self.share = -(-batch // processes)
        self.stored = stored
        self._reader: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[tuple[int, int], Future[list[MicroBatch]]]] = deque()

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Inside this context the batches after the requested one are read in the background."""
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        before = sys.getswitchinterval()
        sys.setswitchinterval(min(before, _SWITCH))
        try:
            yield
        finally:
            sys.setswitchinterval(before)
            self._reader.shutdown(wait=True, cancel_futures=True)
            self._reader = None
            self._coming.clear()

    def micro_batches(self, batch: int, size: int) -> list[MicroBatch]:
        """The process's share of the batch of this number, `size` sequences at a time."""
        if self._reader is None:
            return self._read(batch, size)
        if not self._coming or self._coming[0][0] != (batch, size):
            for _, future in self._coming:
                future.cancel()
            self._coming.clear()
        while len(self._coming) <= _AHEAD:
            ahead = batch + len(self._coming), size
            self._coming.append((ahead, self._reader.submit(self._read, *ahead)))
        return self._coming.popleft()[1].result()

    def _read(self, batch: int, size: int) -> list[MicroBatch]:
        starts = self.sequences.batch_starts(batch, self.batch, self.seed)
        mine = starts[self.rank * self.share : (self.rank + 1) * self.share]
        filled = np.pad(mine, (0, -(-self.share // size) * size - len(mine)))
        numbers = (mine // self.sequences.sequence_length).tolist()
        every, stored = self.sequences.windows(filled).examples(), self.stored(filled)
        every.targets[len(mine) :] = IGNORED
        micro_batches = []
        for first in range(0, len(filled), size):
            part, rest = every.part(first, first + size), tuple(tensor[first : first + size] for tensor in stored)
            if self.pin:
                part, rest = part.pinned(), tuple(tensor.contiguous().pin_memory() for tensor in rest)
            micro_batches.append(MicroBatch(numbers[first : first + size], part, part.counted, rest))
        return micro_batches
