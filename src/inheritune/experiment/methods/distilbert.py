"""Every other block of the reference, as DistilBERT starts."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import override

from inheritune.errors import InputError
from inheritune.experiment.methods.base import LAYERS, Origin, SizedMethod, Stage
from inheritune.inheritance import select_blocks


class DistilbertMethod(SizedMethod):
    """Every other block of the reference, then more from three quarters of its depth on until there are enough."""

    published: ClassVar[str] = "arXiv 2404.08634 v4, figure 17"

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
    if depth <= (total + 1) // 2:
        return select_blocks(depth, "every", total, LAYERS)
    further = depth - (total + 1) // 2
    start = min(3 * total // 4, total - further)
    if start < 0:
        raise InputError(LAYERS, f"{depth} blocks asked for, the reference has {total}", f"give at most {total}")
    return [*range(0, total, 2), *range(start, start + further)]
