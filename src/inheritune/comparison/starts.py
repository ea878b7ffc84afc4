"""What each start takes of its source, as a wish to inherit. Pure functions of the source's depth.

Sources: arXiv 2404.08634 v4, algorithm 1 (inherit), tables 3 to 5 (sub-modules, lazy layers, stacking, hybrid stacking,
half width), figure 17 (the DistilBERT-style start).
"""

from typing import Any

from inheritune.errors import InputError
from inheritune.growth import is_measured
from inheritune.inheritance import count_layers, select_blocks
from inheritune.recipe import (
    ArmSettings,
    DistilbertStart,
    GrowthStart,
    HybridStackingStart,
    Inherit,
    InheritStart,
    LazyStart,
    RandomStart,
    ReferenceStart,
    StackingStart,
)

_PLACE = "start.layers"
Depth = int | float | list[int]


def depth_of(arm: ArmSettings, default: Depth, total: int) -> int:
    """How many blocks an arm has (at its first round, where it grows), for a reference of `total` blocks.

    Raises InputError when there are more than its start can have.
    """
    start = arm.start
    wanted = getattr(start, "layers", None)
    if not hasattr(start, "layers"):  # half width, the reference itself
        return total
    twice = isinstance(start, HybridStackingStart | StackingStart) or getattr(start, "choose", "") == "stacked"
    count = count_layers(default if wanted is None else wanted, total, _PLACE, most=2 * total if twice else total)
    if isinstance(start, StackingStart) and count % 2:
        raise InputError(_PLACE, f"{count} blocks cannot be the same blocks twice", "give an even number")
    return count


def measured_wish(arm: ArmSettings, depth: int) -> Inherit | None:
    """What an arm asks a measured choice for, which looks at the source at work; None where it does not."""
    start = arm.start
    if not isinstance(start, InheritStart | GrowthStart):
        return None
    layers = start.layers if isinstance(start.layers, list) else depth
    spec = Inherit(layers=layers, choose=start.choose)
    return spec if is_measured(spec) else None


def wish_of(arm: ArmSettings, depth: int, total: int, chosen: list[int] | None = None) -> Inherit:
    """What an arm of `depth` blocks takes of its source of `total` blocks, its blocks decided.

    Of stacking, the source is the result of the first stage. `chosen` are the blocks of a measured choice; before it is
    made, the first ones stand in. Raises InputError when a block is not there.
    """
    start = arm.start
    if isinstance(start, InheritStart):
        if measured_wish(arm, depth) is not None:
            return _wish(chosen or list(range(depth)), start.submodules, start.width)
        blocks: Depth = start.layers if isinstance(start.layers, list) else depth
        return _wish(select_blocks(blocks, start.choose, total, _PLACE), start.submodules, start.width)
    if isinstance(start, RandomStart):
        return _wish(_repeated(depth, total), "none", start.width)
    if isinstance(start, StackingStart):
        if 2 * total != depth:
            raise InputError(_PLACE, f"{depth} blocks are not twice the first stage's {total}", f"give {2 * total}")
        return _wish(2 * list(range(total)))
    if isinstance(start, LazyStart):
        return _wish(select_blocks(depth, "last", total, _PLACE))
    if isinstance(start, HybridStackingStart):
        return _wish(select_blocks(depth, "stacked", total, _PLACE))
    if isinstance(start, DistilbertStart):
        return _wish(distilbert_blocks(depth, total))
    return _wish(list(range(total)), width="half" if start.kind == "half-width" else "full")


def spelled_out(arm: ArmSettings, depth: int, total: int) -> dict[str, Any]:
    """What an arm of `depth` blocks starts with, the same for all words that mean the same: the last 4 of 8 blocks are
    `lazy` and a list. What is decided by measuring or while training stands as it was asked for.
    """
    start = arm.start
    whole = isinstance(start, StackingStart | GrowthStart | ReferenceStart) or measured_wish(arm, depth) is not None
    if whole:
        asked: dict[str, Any] = start.model_dump(mode="json")
        return asked | ({"layers": depth} if "layers" in asked else {})
    spec = wish_of(arm, depth, total).model_dump(mode="json", include={"layers", "submodules", "width"})
    return {"of": getattr(start, "of", None), **spec}


def first_stage_wish(depth: int, total: int) -> Inherit:
    """What the first stage of stacking has: half of the blocks, random."""
    return _wish(_repeated(depth // 2, total), "none")


def distilbert_blocks(depth: int, total: int) -> list[int]:
    """Every other block, then blocks from three quarters of the depth on, until there are `depth`: of 24 blocks, 16
    are 0, 2 .. 22 and 18 .. 21 (figure 17). Fewer than every other one are spread evenly.
    """
    if depth <= (total + 1) // 2:
        return select_blocks(depth, "every", total, _PLACE)
    further = depth - (total + 1) // 2
    start = min(3 * total // 4, total - further)
    if start < 0:
        raise InputError(_PLACE, f"{depth} blocks asked for, the reference has {total}", f"give at most {total}")
    return [*range(0, total, 2), *range(start, start + further)]


def _repeated(depth: int, total: int) -> list[int]:
    """Blocks for a config of that depth, in which nothing is inherited; the reference's, over again where it is not
    deep enough.
    """
    return [block % total for block in range(depth)]


def _wish(blocks: list[int], submodules: object = "all", width: str = "full") -> Inherit:
    spec = Inherit(submodules=submodules, width=width)
    return spec.model_copy(update={"layers": blocks})  # stacked blocks are no list that a recipe may have
