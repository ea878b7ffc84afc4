"""The order of sequences: a pure function of seed and position, without a table or state, so resuming costs O(1)."""

import hashlib
import math
from typing import Any

import numpy as np

from inheritune.data.shards import Array

_ROUNDS, _FEW, _ROUNDS_OF_FEW = 6, 10_000, 16  # few sequences need more rounds until all orders are equally likely
_MIX = tuple(np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 30, 27, 31))


def batch_numbers(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The sequences of optimizer step `step` (from 0), whatever the number of processes and the micro-batch.

    Every epoch is another shuffle of all `count` sequences.
    """
    first = step * batch
    positions = np.arange(batch, dtype=np.uint64) + np.uint64(first % count)  # from the beginning of this epoch
    places = positions % np.uint64(count)
    epochs = (positions // np.uint64(count)).astype(np.int64)
    keys = np.stack([_keys(seed, first // count + epoch, _rounds(count)) for epoch in range(int(epochs[-1]) + 1)])
    numbers: list[int] = _permuted(places, count, keys[epochs].T).tolist()
    return numbers


def batch_windows(step: int, batch: int, windows: int, seed: int) -> list[int]:
    """The windows of optimizer step `step`, out of `windows`, each drawn independently."""
    key = _keys(seed, -1, 2)
    positions = np.arange(batch, dtype=np.uint64) + np.uint64(step * batch)
    numbers: list[int] = (_mixed(_mixed(positions, key[0]), key[1]) % np.uint64(windows)).tolist()
    return numbers


def shuffled(places: Array, count: int, seed: int, epoch: int) -> Array:
    """The images of `places` under a permutation of range(count) keyed by (seed, epoch)."""
    return _permuted(places.astype(np.uint64), count, _keys(seed, epoch, _rounds(count))[:, None])


def _permuted(places: Array, count: int, keys: Array) -> Array:
    """A Feistel network on the numbers below a x b, which is `count` or slightly more.

    Results of `count` or more pass through it again (generalized Feistel with cycle walking; Black and Rogaway, Ciphers
    with arbitrary finite domains, 2002). `keys` has shape (rounds, 1) or (rounds, B).
    """
    root = math.isqrt(count - 1) + 1
    a, b = np.uint64(root), np.uint64(-(-count // root))
    left: Array = places // b
    right: Array = places % b
    for turn in range(0, len(keys), 2):
        left = (left + _mixed(right, keys[turn]) % a) % a
        right = (right + _mixed(left, keys[turn + 1]) % b) % b
    images: Array = left * b + right
    outside = np.flatnonzero(images >= count)
    if len(outside):
        images[outside] = _permuted(images[outside], count, keys if keys.shape[1] == 1 else keys[:, outside])
    return images


def _mixed(values: Array, key: Any) -> Array:
    """64 bits of each value and key: the output of SplitMix64 (Steele, Lea and Flood, 2014) from that state."""
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
