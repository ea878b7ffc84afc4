"""How a training's validation loss goes on: a forecast from its curve so far and its learning rates.

The final loss of a training depends on how far its weights have moved and on the learning rate at the end, which keeps
the loss up. So a curve is taken to be

    loss = floor + height * progress^-exponent + heat * felt rate

(a form of the scaling law with learning-rate annealing of Tissue et al., 2024, arXiv 2408.11029). Progress is the sum
of the rates so far. The felt rate is the mean of the recent rates, as the loss follows a change of the rate within some
50 steps. Many exponents and heats are tried. Floor and height follow by least squares. All candidates count, each by
how well it fits. So the interval is wide where the curve does not yet show which of them holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inheritune.runlog import read_metrics

Floats = NDArray[np.float64]

_RECENT = 50  # steps over which the loss follows the rate
_SKIPPED = 0.2  # of the steps so far: the steep beginning follows another law
_FEWEST = 6  # points that a fit needs
_LIKE_ONE = 8  # so many neighbouring points say as much as one: misfits of neighbours resemble each other
_EXPONENTS = np.geomspace(0.05, 2, 13)
_EXPONENT, _EXPONENT_SPREAD = 0.2, 0.5  # what is expected before a curve is seen; spreads are of logarithms
_HEAT, _HEAT_SPREAD = 0.4, 0.4  # nats at the peak rate
_DEVIATIONS = np.linspace(-2, 2, 9)
_NOISE, _NOISE_POINTS = 0.005, 4.0  # nats; expected of a curve, with the weight of so many points
_HUGE = 1e300  # what a damaged file may hold
_MOST_STEPS = 10**7  # of a training that is forecast while it runs

WIDENED, WIDENED_LONGER = 1.25, 2.0
"""The half width of an 80 % interval, in standard deviations of the candidates times 1 + log(all progress / progress so
far): of the end of a training, and of longer trainings than one that is done. benchmarks/forecast.py gives them."""
LONGEST = 4.0
"""How many times the length of a training is looked ahead: no longer trainings were compared with their forecasts."""


@dataclass(frozen=True)
class Interval:
    """A forecast and its 80 % interval."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Times:
    """How many times the length of a training something takes: 1 within it, None more than LONGEST."""

    middle: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Forecast:
    """The candidates for the law of a curve, one a place of each array, with their weights (sum 1)."""

    floors: Floats
    heights: Floats
    exponents: Floats
    heats: Floats
    weights: Floats
    noise: Floats
    """Variance of a point, nats squared."""
    progress: float
    """That of the whole training over that so far."""
    rates: Floats
    """Of all steps, 1 at the peak."""
    last: float | None
    """The final loss, where the training is done."""

    def final(self, times: float = 1.0, widened: float | None = None) -> Interval:
        """The final loss of a training `times` as long, its schedule stretched.

        Of one that is done, the final loss is taken as it is: its candidates only tell what a longer one would gain.
        `widened` is WIDENED or WIDENED_LONGER, if it is not given.
        """
        losses = self._losses(times)
        if widened is None:
            widened = WIDENED if self.last is None else WIDENED_LONGER
        if self.last is not None:
            losses = self.last + losses - self._losses(1.0)
            if times == 1:
                return Interval(self.last, self.last, self.last)
        middle = float(self.weights @ losses)
        variance = float(self.weights @ ((losses - middle) ** 2 + self.noise))
        half = widened * (1 + math.log(self.progress * times)) * math.sqrt(variance)
        return Interval(middle, middle - half, middle + half)

    def _losses(self, times: float) -> Floats:
        heat = self.heats * _last_felt(self.rates, times)
        return np.asarray(self.floors + self.heights * (self.progress * times) ** -self.exponents + heat)

    def times_to_reach(self, loss: float) -> Times:
        """How long a training with this final loss would have to be."""
        lengths = np.geomspace(1, LONGEST, 40)
        finals = [self.final(float(times)) for times in lengths]

        def first(losses: list[float]) -> float | None:
            for place, value in enumerate(losses):
                if value <= loss:
                    if not place:
                        return 1.0
                    share = (losses[place - 1] - loss) / (losses[place - 1] - value)
                    return float(lengths[place - 1] + share * (lengths[place] - lengths[place - 1]))
            return None

        middles, lows, highs = ([getattr(one, name) for one in finals] for name in ("middle", "low", "high"))
        return Times(first(middles), first(lows), first(highs))


def forecast(losses: Sequence[tuple[int, float]], rates: Sequence[float]) -> Forecast | None:
    """Fit the validation losses (step from 1, loss) of a training so far; `rates` are those of all its planned steps.

    None where there are too few points behind the warm-up, where a value is not finite, and where the loss does not
    fall.
    """
    planned = np.asarray(rates, dtype=np.float64)
    values = np.asarray(losses, dtype=np.float64).reshape(-1, 2)
    if not len(values) or not (np.isfinite(values).all() and np.isfinite(planned).all()) or planned.max(initial=0) <= 0:
        return None
    steps, seen = values[:, 0].astype(np.int64), values[:, 1]
    if not 1 <= steps[-1] <= len(planned):
        return None
    scaled = planned / planned.max()
    kept = (steps > _SKIPPED * steps[-1]) & (steps > int(scaled.argmax()))
    if kept.sum() < _FEWEST or not _falls(seen[kept]):
        return None
    moved = np.cumsum(scaled)
    now = moved[steps[-1] - 1]
    felt = np.fromiter(accumulate(scaled, lambda old, new: old + (new - old) / _RECENT), np.float64, len(scaled))
    at = steps[kept] - 1
    found = [_candidates(float(one), moved[at] / now, felt[at], seen[kept]) for one in _EXPONENTS]
    floors, heights, exponents, heats, scores, noise = (np.concatenate(part) for part in zip(*found, strict=True))
    if not np.isfinite(scores.max()):  # all have a floor below 0
        return None
    weights = np.exp(scores - scores.max())
    return Forecast(
        floors, heights, exponents, heats, weights / weights.sum(), noise, float(moved[-1] / now), scaled,
        float(seen[-1]) if steps[-1] == len(planned) else None,
    )  # fmt: skip


def _falls(losses: Floats) -> bool:
    """Whether the last third of the losses is below the first one by more than their noise."""
    third = len(losses) // 3
    first, last = losses[:third], losses[-third:]
    noise = np.diff(losses).std() / math.sqrt(2)
    return bool(first.mean() - last.mean() > noise * math.sqrt(2 / third))


def _candidates(exponent: float, progress: Floats, felt: Floats, losses: Floats) -> tuple[Floats, ...]:
    """Floors, heights, exponents, heats, scores (logarithms) and noise of the laws with this exponent."""
    heats = _HEAT * np.exp(_DEVIATIONS * _HEAT_SPREAD)
    powers = progress**-exponent
    rest = losses[:, None] - felt[:, None] * heats  # a column for each heat
    middle = powers.mean()
    heights = np.maximum(0, (powers - middle) @ (rest - rest.mean(0)) / ((powers - middle) ** 2).sum())
    floors = rest.mean(0) - heights * middle
    squares = ((rest - floors - powers[:, None] * heights) ** 2).sum(0)
    freedom = len(losses) + _NOISE_POINTS
    squares = squares + _NOISE_POINTS * _NOISE**2
    expected = (math.log(exponent / _EXPONENT) / _EXPONENT_SPREAD) ** 2 + _DEVIATIONS**2
    scores = -freedom / 2 / _LIKE_ONE * np.log(squares) - expected / 2
    scores[floors < 0] = -np.inf
    return floors, heights, np.full_like(heats, exponent), heats, scores, squares / (freedom - 2)


def _last_felt(rates: Floats, times: float) -> float:
    """The felt rate at the end of a schedule that is stretched to `times` its steps."""
    steps = max(1, round(times * len(rates)))
    back = np.arange(min(steps, 12 * _RECENT))
    weights = (1 - 1 / _RECENT) ** back
    stretched = np.interp((steps - back) / steps * len(rates), np.arange(1, len(rates) + 1), rates)
    return float(weights @ stretched / weights.sum())


def forecast_of(training: Path, is_done: bool) -> Forecast | None:
    """The forecast of the training in a folder, as far as its metrics.jsonl goes; None where it says too little."""
    records = read_metrics(training / "metrics.jsonl")
    rates = rates_of(records, is_done)
    if rates is None:
        return None
    seen = (one for one in records if 0 < one["step"] <= len(rates) and _is_number(one.get("val_loss")))
    return forecast([(one["step"], one["val_loss"]) for one in seen], rates)


def rates_of(records: Sequence[dict[str, Any]], is_done: bool) -> list[float] | None:
    """The learning rates of all steps of a training from its metrics: those recorded, and those planned for the rest.

    None where the rate of a step is missing, or the plan of a training that is not done.
    """
    recorded = {one["step"]: one["learning_rate"] for one in records if _is_number(one.get("learning_rate"))}
    last = len(recorded)
    if not last or set(recorded) != set(range(1, last + 1)):
        return None
    rates = [float(recorded[step]) for step in range(1, last + 1)]
    if is_done:
        return rates
    plan = next((one["planned_rates"] for one in records if "planned_rates" in one), None)
    try:
        steps, values = np.asarray(plan, dtype=np.float64).T
    except (ValueError, TypeError, OverflowError):  # none, by an earlier version, or damaged
        return None
    end = steps.max(initial=0)
    if not last <= end <= _MOST_STEPS:
        return None
    return [*rates, *map(float, np.interp(np.arange(last + 1, end + 1), steps, values))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and -_HUGE < value < _HUGE
