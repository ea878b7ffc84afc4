"""A race: candidates for the next drop are compared on more and more calibration text, until one is clearly ahead."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from inheritune.analysis.ablation import Trials

TOKENS = 512
"""Calibration tokens of a part, after which candidates that are clearly behind leave the race."""

_STRETCH = 32  # tokens, taken together for standard errors, as the differences of neighbours are alike
_FEWEST = 8  # stretches that a standard error is taken from
_CLEAR = 2.0  # standard errors of the paired difference


@dataclass
class Runner:
    """A candidate, with what it adds to the loss of each token seen so far: to that of the blocks kept (`rises`) and
    to that of the whole model. A positive increase counts `weight` times, a negative one 2 - `weight` times.
    """

    block: int
    weight: float
    rises: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    over_whole: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def run(self, trials: "Trials", part: int) -> None:
        """Measure it on one more part of the text."""
        rises, over_whole = (rise.double().cpu() for rise in trials.rises(self.block, part))
        self.rises = torch.cat([self.rises, rises])
        self.over_whole = torch.cat([self.over_whole, over_whole])

    @property
    def increase(self) -> float:
        """The mean rise."""
        return float(self.rises.mean())

    def counted(self, increase: float | None = None) -> float:
        """What an increase counts, by default that of the text seen so far. NaN counts most."""
        increase = self.increase if increase is None else increase
        return math.inf if math.isnan(increase) else increase * self._factor(increase)

    def is_behind(self, leader: "Runner") -> bool:
        """Whether it counts clearly more than the leader, token by token."""
        one, other = (runner.rises * runner._factor(runner.increase) for runner in (self, leader))
        count = len(one) // _STRETCH
        if count < _FEWEST:
            return False
        apart = (one - other)[: count * _STRETCH].view(count, _STRETCH).mean(1)
        return float(apart.mean()) > _CLEAR * float(apart.std()) / math.sqrt(count)

    def _factor(self, increase: float) -> float:
        return self.weight if increase > 0 else 2 - self.weight


def finish(trials: "Trials", runners: Sequence[Runner], show: Callable[[], None]) -> Runner:
    """The winner among candidates that have run on the first part, the first of equal ones.

    `show` is called after each trial.
    """
    for part in range(1, trials.parts + 1):
        leader = min(runners, key=Runner.counted)
        runners = [one for one in runners if one is leader or not one.is_behind(leader)]
        if len(runners) == 1 or part == trials.parts:
            break
        for one in runners:
            one.run(trials, part)
            show()
    return leader
