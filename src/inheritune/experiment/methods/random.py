"""Random weights in the reference's shape."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import override

from inheritune.experiment.methods.base import SizedMethod, Stage, repeated
from inheritune.recipe import Width


class RandomMethod(SizedMethod):
    """Random weights, as the architecture initialises them, in the reference's shape."""

    published: ClassVar[str] = "arXiv 2404.08634 v4, baselines"

    kind: Literal["random"] = "random"
    """The method's name."""
    width: Width = "full"
    """full, or half: the size of the arm with half the width."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(repeated(depth, total), "random", width=self.width)]
