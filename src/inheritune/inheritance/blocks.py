"""Which blocks: pure functions from settings to a list of block numbers (from 0)."""

import math
from collections.abc import Sequence

from inheritune.errors import InputError
from inheritune.recipe import MEASURED, Choice


def count_layers(layers: int | float | list[int], total: int, place: str = "inherit.layers", most: int = 0) -> int:
    """How many blocks `layers` asks for, of `total`; a fraction is rounded half up, to at least 1.

    Raises InputError when there are more than `most` (default: than the reference has).
    """
    count = len(layers) if isinstance(layers, list) else layers
    if isinstance(count, float):
        count = max(1, math.floor(count * total + 0.5))
    if count > (most or total):
        raise InputError(place, f"{count} blocks asked for, the reference has {total}", f"give at most {most or total}")
    return count


def select_blocks(
    layers: int | float | list[int],
    choose: Choice,
    total: int,
    place: str = "inherit.layers",
    dropped: Sequence[int] | None = None,
) -> list[int]:
    """The blocks to inherit, in their new order; `choose` decides when `layers` is a number or a fraction.

    first: 0 .. n-1 (paper, algorithm 1). last: the last n. middle: n around the middle. ends: a fifth of n (rounded
    down, but at least one of two or more) from the end and the rest from the start. every: n spread evenly from block
    0, so every second for half. stacked: the first n/2, twice (paper, baselines: stacking and hybrid stacking). A
    measured choice (auto, rank, influence, loss) keeps all but the first of `dropped`, the order in which blocks are
    dropped.

    Raises InputError when a block is not there or there are too few.
    """
    if isinstance(layers, list):
        beyond = [block for block in layers if not 0 <= block < total]
        if beyond:
            what = f"block {beyond[0]} is not there: the reference has {total}"
            raise InputError(place, what, f"legal are 0 to {total - 1}")
        return list(layers)
    count = count_layers(layers, total, place, most=2 * total if choose == "stacked" else total)
    if choose == "stacked":
        if count % 2:
            raise InputError(place, f"{count} blocks cannot be the same blocks twice", "give an even number")
        return 2 * list(range(count // 2))
    if choose in MEASURED:
        if dropped is None:
            raise InputError(
                f"choose: {choose}",
                "it looks at the model at work on text, and there is none here",
                "give `inheritune inherit` a --text, or the list of blocks that `inheritune analyze --choose` gives",
            )
        if total - len(dropped) > count:
            raise InputError(place, f"{count} blocks, and the order drops only {len(dropped)}", "choose anew")
        gone = set(dropped[: total - count])
        return [block for block in range(total) if block not in gone]
    starts = {"first": 0, "last": total - count, "middle": (total - count) // 2}
    if choose in starts:
        return list(range(starts[choose], starts[choose] + count))
    if choose == "every":
        return [at * total // count for at in range(count)]
    tail = min(max(1, count // 5), count - 1)
    return [*range(count - tail), *range(total - tail, total)]
