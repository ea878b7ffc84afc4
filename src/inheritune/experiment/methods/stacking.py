"""Half of the blocks trained from random weights, then stacked (arXiv 2404.08634 v4, baselines; gradual stacking)."""

from collections.abc import Container, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from inheritune.errors import InputError
from inheritune.experiment.methods.base import LAYERS, Depth, Origin, SizedMethod, Stage, repeated

FIRST_STAGE = "first-stage"


class StackingMethod(SizedMethod):
    """Half of the blocks trained from random weights, then put on top of themselves and trained on (paper, baselines).
    Both stages count: the arm's length is shared between them.
    """

    max_depth: ClassVar[int] = 2
    is_sized_by_reference: ClassVar[bool] = True

    kind: Literal["stacking"] = "stacking"
    """The method's name."""
    of: Origin = None
    """The arm whose result is stacked, its tokens counted here too. Default: a first stage of this arm's own."""
    first_stage: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of the arm's steps that its own first stage takes, rounded down to whole steps."""

    @property
    @override
    def counts_source(self) -> bool:
        return self.of is not None

    @override
    def depth(self, default: Depth, total: int) -> int:
        depth = super().depth(default, total)
        if depth % 2:
            raise InputError(LAYERS, f"{depth} blocks cannot be the same blocks twice", "give an even number")
        return depth

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        half = depth // 2
        stacked = 2 * list(range(half))
        if self.of is None:
            first = repeated(half, total)
            return [
                Stage(first, "random", name="first stage", folder=FIRST_STAGE, share=self.first_stage),
                Stage(stacked, after_previous=True, share=1 - self.first_stage),
            ]
        if 2 * total != depth:
            what = f"{depth} blocks are not twice the first stage's {total}"
            raise InputError(LAYERS, what, f"give {2 * total}")
        return [Stage(stacked)]

    @override
    def check(self, arms: Container[str], allow_unequal: str | None) -> None:
        if self.of is not None and self.of not in arms:
            what, remedy = f"there is no arm {self.of!r}", "name an arm of the suite, whose result is stacked"
            raise InputError("start.of", what, remedy)
