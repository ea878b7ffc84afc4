"""Sequences in an order that is a pure function of seed and position: no table, no state, O(1) to resume."""

import hashlib
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.shards import Tokens
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch

IGNORED = -100  # torch's mark for a target that counts nothing
Array = np.ndarray[Any, np.dtype[Any]]
_ROUNDS, _FEW, _ROUNDS_OF_FEW = 6, 10_000, 16  # few sequences need more rounds, until all their orders are as likely
_MIX = tuple(np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 30, 27, 31))
_AHEAD = 4  # batches: a slow read is made up for by those before it
_SWITCH = 0.001  # seconds after which the interpreter leaves a busy thread: a reader needs it again after each sequence


class Sequences:
    """A row of tokens cut into sequences of T + 1, each beginning with the last token of the one before.

    So every token but the first is predicted exactly once; what does not fill a last sequence is left out. `sampling`
    says in which order a training takes them; `with replacement` it takes windows of T + 1 that begin anywhere.
    """

    def __init__(self, tokens: "Tokens | Array", sequence_length: int, place: str, sampling: str = "shuffled") -> None:
        """Raises InputError when there are too few tokens for one sequence."""
        self.tokens, self.sequence_length, self.sampling = tokens, sequence_length, sampling
        self.count = (len(tokens) - 1) // sequence_length
        if self.count < 1:
            raise InputError(
                place,
                f"{len(tokens)} tokens do not fill one sequence of {sequence_length}",
                "give more text, or a smaller train.sequence_length",
            )

    @property
    def left_over(self) -> int:
        """Tokens at the end that fill no sequence; windows that begin anywhere leave none."""
        whole = len(self.tokens) - 1 - self.count * self.sequence_length
        return whole if self.sampling == "shuffled" else 0

    def rows(self, numbers: "Sequence[int]") -> "np.ndarray[Any, np.dtype[np.int64]]":
        """The sequences of these numbers, shape (B, T + 1)."""
        return self.windows(np.asarray(numbers, np.int64) * self.sequence_length)

    def windows(self, starts: Array) -> "np.ndarray[Any, np.dtype[np.int64]]":
        """The T + 1 tokens from each of `starts` on, shape (B, T + 1)."""
        if isinstance(self.tokens, Tokens):
            return self.tokens.rows(starts, self.sequence_length + 1).astype(np.int64)
        return self.tokens[starts[:, None] + np.arange(self.sequence_length + 1)].astype(np.int64)

    def batch_starts(self, step: int, batch: int, seed: int) -> Array:
        """The tokens at which the sequences of a training's batch of this number begin, shape (batch,)."""
        if self.sampling == "with replacement":
            return np.asarray(batch_windows(step, batch, len(self.tokens) - self.sequence_length, seed))
        return np.asarray(batch_numbers(step, batch, self.count, seed)) * self.sequence_length


def batch_numbers(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The sequences of optimizer step `step` (from 0), whoever computes it and in whatever micro-batches.

    Every epoch is a shuffle of its own of all `count` sequences.
    """
    first = step * batch
    positions = np.arange(batch, dtype=np.uint64) + np.uint64(first % count)  # from the beginning of this epoch on
    places = positions % np.uint64(count)
    epochs = (positions // np.uint64(count)).astype(np.int64)
    keys = np.stack([_keys(seed, first // count + epoch, _rounds(count)) for epoch in range(int(epochs[-1]) + 1)])
    found: list[int] = _permuted(places, count, keys[epochs].T).tolist()
    return found


def batch_windows(step: int, batch: int, windows: int, seed: int) -> list[int]:
    """The windows of optimizer step `step`, out of `windows`, each drawn for itself."""
    key = _keys(seed, -1, 2)
    positions = np.arange(batch, dtype=np.uint64) + np.uint64(step * batch)
    found: list[int] = (_mixed(_mixed(positions, key[0]), key[1]) % np.uint64(windows)).tolist()
    return found


def shuffled(places: Array, count: int, seed: int, epoch: int) -> Array:
    """The images of `places` under a permutation of range(count) keyed by (seed, epoch)."""
    return _permuted(places.astype(np.uint64), count, _keys(seed, epoch, _rounds(count))[:, None])


def _permuted(places: Array, count: int, keys: Array) -> Array:
    """A Feistel network on the numbers below a x b, of which as few as possible are `count` or more.

    Those are sent through again until they come out below (generalized Feistel with cycle walking; Black and Rogaway,
    Ciphers with arbitrary finite domains, 2002). `keys` has shape (rounds, 1) or (rounds, B).
    """
    root = math.isqrt(count - 1) + 1
    a, b = np.uint64(root), np.uint64(-(-count // root))
    left: Array = places // b
    right: Array = places % b
    for turn in range(0, len(keys), 2):
        left = (left + _mixed(right, keys[turn]) % a) % a
        right = (right + _mixed(left, keys[turn + 1]) % b) % b
    found: Array = left * b + right
    outside = np.flatnonzero(found >= count)
    if len(outside):
        found[outside] = _permuted(found[outside], count, keys if keys.shape[1] == 1 else keys[:, outside])
    return found


def _mixed(values: Array, key: Any) -> Array:
    """64 bits of each value and key: the numbers that SplitMix64 (Steele, Lea and Flood, 2014) gives from there."""
    step, first, second, far, middle, near = _MIX
    mixed: Array = values * step
    mixed += key
    mixed ^= mixed >> far
    mixed *= first
    mixed ^= mixed >> middle
    mixed *= second
    mixed ^= mixed >> near
    return mixed


def _rounds(count: int) -> int:
    return _ROUNDS if count > _FEW else _ROUNDS_OF_FEW


def _keys(seed: int, epoch: int, rounds: int) -> Array:
    """64 bits for each round."""
    drawn = hashlib.shake_128(b"%d,%d" % (seed, epoch)).digest(8 * rounds)
    return np.frombuffer(drawn, "<u8").astype(np.uint64)


@dataclass(frozen=True)
class MicroBatch:
    """Inputs and targets (B, T); rows beyond the sequences of these `numbers` fill up B, and count nothing.

    Windows that begin anywhere have the number of the sequence in which they begin. `stored` is what else is kept of
    the sequences, each with B rows.
    """

    numbers: list[int]
    inputs: "torch.Tensor"
    targets: "torch.Tensor"
    stored: "tuple[torch.Tensor, ...]" = ()


def nothing_stored(starts: Array) -> "tuple[torch.Tensor, ...]":
    """What is kept of sequences besides their tokens, where nothing is."""
    return ()


class Batches:
    """The batches of a training as one of several processes sees them, the next ones read ahead in a thread.

    All micro-batches have the same shape, and every process has as many of them. `stored` reads what else is kept of
    the sequences that begin at some tokens of the text.
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
        """Inside, the batches after the one that was asked for are read in the background."""
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
        import torch

        starts = self.sequences.batch_starts(batch, self.batch, self.seed)
        mine = starts[self.rank * self.share : (self.rank + 1) * self.share]
        filled = np.pad(mine, (0, -(-self.share // size) * size - len(mine)))
        rows = torch.from_numpy(self.sequences.windows(filled))
        inputs_BT, targets_BT = rows[:, :-1], rows[:, 1:].clone()
        targets_BT[len(mine) :] = IGNORED
        tensors = [inputs_BT, targets_BT, *self.stored(filled)]
        if self.pin:
            tensors = [tensor.contiguous().pin_memory() for tensor in tensors]
        numbers = (mine // self.sequences.sequence_length).tolist()
        parts = zip(*(torch.split(tensor, size) for tensor in tensors), strict=True)
        return [
            MicroBatch(numbers[i * size : (i + 1) * size], inputs, targets, tuple(stored))
            for i, (inputs, targets, *stored) in enumerate(parts)
        ]
