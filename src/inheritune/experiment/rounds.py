"""Rounds of growth: inherit, train, judge; deeper while the target does not match (arXiv 2404.08634 v4, algorithm 1).

Pure functions of settings and of the results so far.
"""

from collections.abc import Sequence
from itertools import pairwise

from inheritune.errors import InputError
from inheritune.experiment.stage import Stage
from inheritune.inheritance import count_layers, is_grown, select_blocks
from inheritune.recipe import MEASURED, Grow, Inherit
from inheritune.report import short
from inheritune.results import RoundResult


def depths(inherit: Inherit, grow: Grow | None, total: int) -> list[int]:
    """The numbers of blocks that the rounds may have, in their order, for a reference of `total` blocks.

    Raises InputError for more blocks than the reference has, or a deepest round that has fewer than the first.
    """
    first = count_layers(inherit.layers, total, most=2 * total if inherit.choose == "stacked" else total)
    if grow is None:
        return [first]
    deepest = grow.max_layers if grow.max_layers is not None else max(first, total - 1)
    if deepest > total:
        raise InputError("grow.max_layers", f"{deepest} blocks, the reference has {total}", f"give at most {total}")
    if deepest < first:
        what = f"{deepest} is below the first round's {first} blocks"
        raise InputError("grow.max_layers", what, f"give {first} or more")
    return [*range(first, deepest, grow.by), deepest]


def has_reached(result: RoundResult, grow: Grow | None) -> bool:
    """Whether a round is good enough by `grow.until`; through all depths, and without growth, where it has matched."""
    until = "matched" if grow is None else grow.until
    if until == "published":
        return result.gap is not None and result.gap <= 0
    return result.decision == "matched" or (until == "undecided" and result.decision == "undecided")


def continues(results: Sequence[RoundResult], grow: Grow | None, rounds: int) -> bool:
    """Whether another of at most `rounds` rounds follows those with these results."""
    if not results:
        return True
    if grow is None or len(results) >= rounds:
        return False
    return grow.until == "max_layers" or not has_reached(results[-1], grow)


def best_round(results: Sequence[RoundResult], grow: Grow | None) -> RoundResult:
    """The round that is the result: the first (shallowest) good enough, else the one with the lowest loss."""
    reached = [one for one in results if has_reached(one, grow)]
    return reached[0] if reached else min(results, key=lambda one: one.val_loss)


def verdict_line(result: RoundResult) -> str:
    """A round's outcome in words."""
    error = "" if result.gap_se is None else f" ± {result.gap_se:.4f}"
    line = f"{result.name}: validation loss {result.val_loss:.4f}, gap {result.gap:+.4f}{error}: {result.decision}"
    if result.tokens_to_decide is not None:
        line += f"; about {short(result.tokens_to_decide)} tokens of validation text would decide"
    return line


def is_measured(inherit: Inherit) -> bool:
    """Whether the blocks are chosen by looking at the model at work."""
    return inherit.choose in MEASURED and not isinstance(inherit.layers, list)


def round_stages(inherit: Inherit, grow: Grow | None, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
    """A stage for every round that there may be, for a reference of `total` blocks.

    `dropped` is the order of a measured choice; before it is made, the first blocks stand in. Raises InputError as
    `depths` does, and where a round cannot continue the one before it.
    """
    is_provisional = is_measured(inherit) and dropped is None
    possible = depths(inherit, grow, total)
    kept = [list(range(depth)) if is_provisional else _blocks(inherit, depth, total, dropped) for depth in possible]
    trained = grow is not None and grow.start == "trained"
    if trained:
        _check_nested(kept)
        if inherit.refit is not None:
            what = "a round that continues the one before cannot be refitted: its blocks are trained"
            raise InputError("inherit.refit", what, "leave it out, or set grow.start to reference")
    every = grow is not None and grow.until == "max_layers"
    return [
        Stage(
            blocks, submodules=inherit.submodules, widths=inherit.only_widths, name=f"round {number}",
            folder=f"{number}-{depth}layers", insert_trained=trained and number > 1,
            function_preserving=grow is not None and grow.function_preserving, is_certain=every or number == 1,
            is_provisional=is_provisional, refit=inherit.refit,
            may_stop=grow is not None and grow.stop_early and number < len(possible),
        )
        for number, (depth, blocks) in enumerate(zip(possible, kept, strict=True), 1)
    ]  # fmt: skip


def _blocks(inherit: Inherit, depth: int, total: int, dropped: Sequence[int] | None) -> list[int]:
    layers = inherit.layers if isinstance(inherit.layers, list) else depth
    return select_blocks(layers, inherit.choose, total, dropped=dropped)


def _check_nested(kept: Sequence[list[int]]) -> None:
    """Raise InputError where a round lacks a block of the one before it."""
    for before, after in pairwise(kept):
        if not is_grown(before, after):
            raise InputError(
                "grow.start",
                f"a round of blocks {after} cannot continue one of {before}, whose blocks are not all in it",
                "set inherit.choose to first, last or ends, or grow.start to reference",
            )
