"""Methods with one plain training: other choices of blocks, random weights, the reference itself.

"Paper" is arXiv 2404.08634 v4.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator
from typing_extensions import override

from inheritune.errors import InputError
from inheritune.experiment.methods.base import LAYERS, Depth, Method, Origin, SizedMethod, Stage, repeated
from inheritune.inheritance import select_blocks
from inheritune.recipe import FIRST_HALF, ChosenWidths, Widths
from inheritune.recipe.widths import AXES


class DistilbertMethod(SizedMethod):
    """Every other block of the reference, then more from three quarters of its depth on until there are enough."""

    kind: Literal["distilbert"] = "distilbert"
    """The method's name."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(distilbert_blocks(depth, total))]


def distilbert_blocks(depth: int, total: int) -> list[int]:
    """Every other block, then blocks from three quarters of the depth on, until there are `depth`: of 24 blocks, 16
    are 0, 2 .. 22 and 18 .. 21 (figure 17). Fewer than every other one are spread evenly.
    """
    further = depth - (total + 1) // 2
    if further <= 0:
        return select_blocks(depth, "every", total, LAYERS)
    start = min(3 * total // 4, total - further)
    if start < 0:
        raise InputError(LAYERS, f"{depth} blocks asked for, the reference has {total}", f"give at most {total}")
    return [*range(0, total, 2), *range(start, start + further)]


class HalfWidthMethod(Method):
    """All blocks with the first half of heads, hidden size and MLP (paper, baselines)."""

    kind: Literal["half-width"] = "half-width"
    """The method's name."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(range(total), widths=ChosenWidths(**FIRST_HALF))]


class HybridStackingMethod(SizedMethod):
    """The reference's first n/2 blocks, twice (paper, baselines)."""

    max_depth: ClassVar[int] = 2

    kind: Literal["hybrid-stacking"] = "hybrid-stacking"
    """The method's name."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(select_blocks(depth, "stacked", total, LAYERS))]


class LazyMethod(SizedMethod):
    """The last blocks of the reference, whose attention has collapsed (paper, figure 3)."""

    kind: Literal["lazy"] = "lazy"
    """The method's name."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(select_blocks(depth, "last", total, LAYERS))]


class RandomMethod(Widths, SizedMethod):
    """Random weights, as the architecture initialises them, in the reference's shape."""

    kind: Literal["random"] = "random"
    """The method's name."""
    of: Origin = None
    """Whose shape they have, as `of` of `inherit`: all of it, such as the one that was found for an arm with a size.
    Default: the reference's, as far as the other keys say."""

    @model_validator(mode="after")
    def _shape_is_said_once(self) -> Self:
        given = [key for key in ("layers", *AXES) if getattr(self, key) is not None]
        if self.of is not None and given:
            raise ValueError(f"of gives the whole shape, {', '.join(given)} included; give one or the other")
        return self

    @override
    def depth(self, default: Depth, total: int) -> int:
        return super().depth(default, total) if self.of is None else total

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        if self.of is not None:
            return [Stage(range(total), "random")]
        return [Stage(repeated(depth, total), "random", widths=ChosenWidths(**self.widths, importance="first"))]


class ReferenceMethod(Method):
    """The reference itself, trained on under the arms' budget."""

    kind: Literal["reference"] = "reference"
    """The method's name."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(range(total), "whole")]
