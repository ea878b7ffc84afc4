"""The reference's first blocks, twice."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import override

from inheritune.experiment.methods.base import LAYERS, Origin, SizedMethod, Stage
from inheritune.inheritance import select_blocks


class HybridStackingMethod(SizedMethod):
    """The reference's first n/2 blocks, twice (paper, baselines)."""

    published: ClassVar[str] = "arXiv 2404.08634 v4, baselines"
    max_depth: ClassVar[int] = 2

    kind: Literal["hybrid-stacking"] = "hybrid-stacking"
    """The method's name."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(select_blocks(depth, "stacked", total, LAYERS))]
