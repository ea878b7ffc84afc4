"""All blocks at half the width."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import override

from inheritune.experiment.methods.base import Method, Origin, Stage


class HalfWidthMethod(Method):
    """All blocks with the first half of heads, hidden size and MLP (paper, baselines)."""

    published: ClassVar[str] = "arXiv 2404.08634 v4, baselines"

    kind: Literal["half-width"] = "half-width"
    """The method's name."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(range(total), width="half")]
