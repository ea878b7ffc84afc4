"""The last blocks of the reference."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import override

from inheritune.experiment.methods.base import LAYERS, Origin, SizedMethod, Stage
from inheritune.inheritance import select_blocks


class LazyMethod(SizedMethod):
    """The last blocks of the reference, whose attention has collapsed (paper, figure 3)."""

    published: ClassVar[str] = "arXiv 2404.08634 v4, figure 3"

    kind: Literal["lazy"] = "lazy"
    """The method's name."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(select_blocks(depth, "last", total, LAYERS))]
