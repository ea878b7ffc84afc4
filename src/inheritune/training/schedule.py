"""The learning rate over the steps of a training."""

import math
from collections.abc import Callable

from inheritune.errors import InputError
from inheritune.recipe import Schedule, Training

_PLANNED = 100  # intervals between the steps whose rates are recorded before the first one


def learning_rate(step: int, steps: int, warm_up: int, decay: int, peak: float, schedule: Schedule) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`; `warm_up` and `decay` are numbers of steps.

    Rises linearly over `warm_up` steps, reaching `peak` at the last of them. Then, by the schedule's name:

    - cosine: a half cosine (Loshchilov and Hutter, 2017) down to `schedule.final` times the peak at the last step;
    - linear: a straight line down to the same;
    - wsd: the peak, and over the last `decay` steps a straight line down to the same (warm-up, stable, decay:
      Hu et al., MiniCPM, 2024, with the linear decay of Hägele et al., 2024); without decay steps it stays;
    - constant: the peak.

    Only wsd uses `decay`. `check_schedule` checks that both fit into the steps; here warm-up comes first.
    """
    if step < warm_up:
        return peak * (step + 1) / warm_up
    if schedule.name == "constant":
        return peak
    if schedule.name == "wsd":
        into = step + 1 - (steps - decay)  # 1 at the first step of the decay, `decay` at the last
        return peak if into <= 0 else peak * _between(schedule.final, 1 - into / decay)
    share = min(1.0, (step - warm_up) / max(1, steps - 1 - warm_up))
    left = 1 - share if schedule.name == "linear" else 0.5 * (1 + math.cos(math.pi * share))
    return peak * _between(schedule.final, left)


def _between(final: float, left: float) -> float:
    """From 1 (`left` is 1) to `final` (`left` is 0)."""
    return final + (1 - final) * left


def check_schedule(settings: Training, steps: int) -> None:
    """Raise InputError where warm-up and decay together exceed `steps` optimizer steps (wsd only)."""
    if settings.schedule.name != "wsd":
        return
    warm_up, decay = settings.warm_up_steps(steps), settings.decay_steps(steps)
    if warm_up + decay > steps:
        raise InputError(
            "train.schedule.decay",
            f"{settings.schedule.decay} are {decay:,} steps, after {warm_up:,} of warm-up, of {steps:,} in all;"
            f" legal are at most {max(0, steps - warm_up):,}",
            "give a shorter decay or warm_up, or a longer train.length",
        )


def planned_rates(steps: int, rate: Callable[[int], float]) -> list[tuple[int, float]]:
    """Number (from 1) and learning rate of about a hundred evenly spaced steps, for forecasts.

    `rate` gives the rate of a step, from 0.
    """
    chosen = sorted({1 + round(place * (steps - 1) / _PLANNED) for place in range(_PLANNED + 1)})
    return [(step, rate(step - 1)) for step in chosen]
