"""Which blocks: pure functions from a wish to a list of block numbers (from 0)."""

import math

from inheritune.errors import InputError
from inheritune.recipe import Choice


def count_layers(layers: int | float | list[int], total: int, place: str = "inherit.layers") -> int:
    """How many blocks `layers` asks for, of `total`; a fraction is rounded half up, to at least 1.

    Raises InputError when the reference has fewer.
    """
    count = len(layers) if isinstance(layers, list) else layers
    if isinstance(count, float):
        count = max(1, math.floor(count * total + 0.5))
    if count > total:
        raise InputError(place, f"{count} blocks asked for, the reference has {total}", f"give at most {total}")
    return count


def select_blocks(
    layers: int | float | list[int], choose: Choice, total: int, place: str = "inherit.layers"
) -> list[int]:
    """The blocks to inherit, rising; `choose` decides when `layers` is a number or a fraction.

    first: 0 .. n-1 (paper, algorithm 1). last: the last n. middle: n around the middle. ends: four fifths of n
    (rounded up) from the start and the rest from the end.

    Raises InputError when a block is not there or there are too few.
    """
    if isinstance(layers, list):
        beyond = [block for block in layers if not 0 <= block < total]
        if beyond:
            raise InputError(
                place,
                f"block {beyond[0]} is not there: the reference has {total}",
                f"legal are 0 to {total - 1}",
            )
        return list(layers)
    count = count_layers(layers, total, place)
    if choose == "first":
        return list(range(count))
    if choose == "last":
        return list(range(total - count, total))
    if choose == "middle":
        start = (total - count) // 2
        return list(range(start, start + count))
    head = math.ceil(count * 4 / 5)
    return list(range(head)) + list(range(total - (count - head), total))
