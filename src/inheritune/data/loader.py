"""The batches of a training: which sequences each process takes, read ahead in a thread."""

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

_AHEAD = 4  # batches, so that one slow read delays nothing


@dataclass(frozen=True)
class MicroBatch:
    """Examples of the sequences with these `numbers`; more rows, which do not count, fill up the micro-batch.

    A window has the number of the sequence in which it begins. `counted` is the number of targets that count. `stored`
    are tensors of B rows that are stored for the sequences besides their tokens.
    """

    numbers: list[int]
    examples: Examples
    counted: int
    stored: "tuple[torch.Tensor, ...]" = ()


def nothing_stored(starts: Array) -> "tuple[torch.Tensor, ...]":
    """For sequences that have nothing stored besides their tokens."""
    return ()


class Batches:
    """The part of a training's batches for process `dp_rank` of `dp_size`, read ahead in a thread.

    All micro-batches have the same number of rows, and every process gets the same number of them. They also have the
    same length, unless a prefix precedes the documents inside a sequence. `stored` reads what else is stored for the
    sequences that begin at these tokens of the text.
    """

    def __init__(
        self, sequences: Sequences, batch: int, seed: int, *, dp_rank: int = 0, dp_size: int = 1, pin: bool = False,
        stored: "Callable[[Array], tuple[torch.Tensor, ...]]" = nothing_stored,
    ) -> None:  # fmt: skip
        self.sequences, self.batch, self.seed, self.dp_rank, self.pin = sequences, batch, seed, dp_rank, pin
        self.share = -(-batch // dp_size)
        self.stored = stored
        self._reader: ThreadPoolExecutor | None = None
        self._coming: deque[tuple[tuple[int, int], Future[list[MicroBatch]]]] = deque()

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """A context in which the batches after the requested one are read in the background."""
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        try:
            yield
        finally:
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
        mine = starts[self.dp_rank * self.share : (self.dp_rank + 1) * self.share]
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
