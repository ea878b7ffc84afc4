"""Rounds with more and more blocks until the target matches the reference."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from typing_extensions import override

from inheritune.experiment.methods.base import SizedMethod, Stage
from inheritune.experiment.rounds import best_round, continues, has_reached, is_measured, round_stages
from inheritune.recipe import Choice, Grow, Inherit
from inheritune.results import RoundResult


class GrowthMethod(SizedMethod):
    """Rounds until the target matches the reference, as in `inheritune run`; all rounds count."""

    is_rounds: ClassVar[bool] = True

    kind: Literal["growth"] = "growth"
    """The method's name."""
    choose: Choice = "first"
    """Which blocks, as `inherit.choose` of a recipe."""
    grow: Grow = Grow()
    """The rounds, as `grow` of a recipe. With `start: reference`, the published protocol, each round starts from the
    reference's blocks; with `start: trained` from the round before."""

    def _first(self, depth: int) -> Inherit:
        return Inherit(layers=depth, choose=self.choose)

    @override
    def measured(self, depth: int) -> Inherit | None:
        first = self._first(depth)
        return first if is_measured(first) else None

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return round_stages(self._first(depth), self.grow, total, dropped)

    @override
    def continues(self, results: Sequence[RoundResult], stages: int) -> bool:
        return continues(results, self.grow, stages)

    @override
    def has_reached(self, result: RoundResult) -> bool:
        return has_reached(result, self.grow)

    @override
    def result(self, results: Sequence[RoundResult]) -> RoundResult:
        return best_round(results, self.grow)
