"""Forecasts from curves of a known law, of another law, and from what is no curve."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from inheritune.recipe import Schedule
from inheritune.report.forecast import LONGEST, forecast, forecast_of
from inheritune.training import learning_rate

STEPS, EVERY = 2000, 50
SCHEDULES = {
    "cosine": Schedule(), "linear": Schedule(name="linear", final=0.0), "wsd": Schedule(name="wsd"),
    "constant": Schedule(name="constant"),
}  # fmt: skip

Law = Callable[[list[float]], list[float]]


def rates_of(name: str, steps: int = STEPS) -> list[float]:
    return [learning_rate(step, steps, steps // 50, steps // 5, 2e-3, SCHEDULES[name]) for step in range(steps)]


def own_law(rates: list[float]) -> list[float]:
    """Losses after each step by the law of the module, computed step by step."""
    losses, progress, felt, whole = [], 0.0, rates[0], 0.7 * 2e-3 * STEPS
    for rate in rates:
        progress += rate
        felt += (rate - felt) / 50
        losses.append(2.9 + 0.5 * (progress / whole) ** -0.4 + 0.35 * felt / 2e-3)
    return losses


def published_law(rates: list[float], floor: float, exponent: float, fall: float, gain: float) -> list[float]:
    """Tissue et al., 2024: floor + A S1^-exponent - C S2, with S2 the sum over all steps of what the rate has fallen, each
    fall forgotten by a thousandth a step. `fall` and `gain` are what the two terms have brought after STEPS steps of a cosine.
    """

    def sums(of: list[float]) -> list[tuple[float, float]]:
        found, moved, momentum, area = [], 0.0, 0.0, 0.0
        for before, rate in zip([of[0], *of], of, strict=False):
            moved, momentum = moved + rate, 0.999 * momentum + max(0.0, before - rate)
            area += momentum
            found.append((moved, area))
        return found

    whole, area = sums(rates_of("cosine"))[-1]
    return [floor + fall * (moved / whole) ** -exponent - gain * cooled / area for moved, cooled in sums(rates)]


def curve(law: Law, rates: list[float], share: float, noise: float, seed: int) -> list[tuple[int, float]]:
    random, losses = np.random.default_rng(seed), law(rates)
    seen = range(EVERY, round(share * len(rates)) + 1, EVERY)
    return [(step, losses[step - 1] + noise * random.normal()) for step in seen]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("share", [0.5, 0.75])
def test_the_final_loss_of_its_own_law_is_found(name: str, share: float) -> None:
    rates = rates_of(name)
    made = forecast(curve(own_law, rates, share, 0.005, seed=1), rates)
    assert made is not None
    final, truth, seen = made.final(), own_law(rates)[-1], own_law(rates)[round(share * STEPS) - 1]
    assert final.low <= truth <= final.high
    if name == "wsd":  # what the decay of the rate brings is not seen yet
        assert abs(final.middle - truth) < 0.25 * (seen - truth)
        return
    assert abs(final.middle - truth) < max(0.02, 0.2 * (seen - truth))
    assert final.high - final.low < 0.7 * (seen - truth) + 0.1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_longer_training_of_its_own_law_is_found(name: str) -> None:
    rates = rates_of(name)
    made = forecast(curve(own_law, rates, 1.0, 0.003, seed=2), rates)
    assert made is not None
    now = made.last
    assert now is not None
    assert made.final().middle == made.final().high == now
    for times in (2, 4):
        gain = own_law(rates)[-1] - own_law(rates_of(name, times * STEPS))[-1]
        final = made.final(times)
        assert now - final.middle == pytest.approx(gain, rel=0.35)
        assert final.low < now - gain < final.high
        reached = made.times_to_reach(final.middle)
        assert reached.middle == pytest.approx(times, rel=0.02)
        assert reached.low is not None
        assert reached.low < times
        assert reached.high is None or reached.high > times


def test_a_loss_far_below_is_in_no_sight_and_one_above_is_reached_at_once() -> None:
    rates = rates_of("cosine")
    made = forecast(curve(own_law, rates, 1.0, 0.003, seed=3), rates)
    assert made is not None
    far = made.times_to_reach(made.final(LONGEST).low - 0.01)
    assert (far.middle, far.low, far.high) == (None, None, None)
    assert made.times_to_reach(own_law(rates)[-1] + 1).middle == 1


def test_intervals_hold_on_curves_of_another_law() -> None:
    """80 % are meant. The law is a published one, and its curves differ in all that it leaves open."""
    random, held = np.random.default_rng(0), []
    for number in range(60):
        rates = rates_of(list(SCHEDULES)[number % 4])
        floor, exponent = random.uniform(2, 3), random.uniform(0.2, 0.7)
        law = partial(
            published_law, floor=floor, exponent=exponent, fall=random.uniform(0.2, 0.8), gain=random.uniform(0.1, 0.4)
        )
        made = forecast(curve(law, rates, 0.5, 0.01, seed=number), rates)
        assert made is not None
        held.append(made.final().low <= law(rates)[-1] <= made.final().high)
    assert np.mean(held) >= 0.75


@pytest.mark.parametrize(
    "losses",
    [
        [], [(50, 5.0), (100, 4.0)], [(step, 3.0) for step in range(50, 1050, 50)],
        [(step, 3.0 + step / 1000) for step in range(50, 1050, 50)],
        [(step, 3.0 - step / 2000 if step != 500 else math.nan) for step in range(50, 1050, 50)],
        [(step, 3.0 + (0.02 if step % 100 else -0.02)) for step in range(50, 1050, 50)],
        [(step, 3.0 - step / 2000) for step in range(50, 2550, 50)],
    ],
    ids=["none", "two points", "constant", "rising", "not a number", "noise", "beyond the planned steps"],
)  # fmt: skip
def test_what_is_no_falling_curve_gives_no_forecast(losses: list[tuple[int, float]]) -> None:
    assert forecast(losses, rates_of("cosine")) is None


def test_rates_that_are_none_give_no_forecast() -> None:
    losses = curve(own_law, rates_of("cosine"), 0.5, 0.0, seed=1)
    assert forecast(losses, rates_of("cosine")) is not None
    for rates in ([], [0.0] * STEPS, [math.inf] * STEPS, [math.nan] * STEPS):
        assert forecast(losses, rates) is None


def write_metrics(
    folder: Path, share: float, plan: object = "planned", gap: int | None = None
) -> list[tuple[int, float]]:
    """metrics.jsonl of a training as far as `share`."""
    rates = rates_of("cosine")
    losses = curve(own_law, rates, share, 0.003, seed=4)
    planned = [(step, rates[step - 1]) for step in range(1, STEPS + 1, 20)] + [(STEPS, rates[-1])]
    first = {"step": 0, "tokens": 0, "val_loss": 9.0} | (
        {} if plan is None else {"planned_rates": planned if plan == "planned" else plan}
    )
    records = [first] + [
        {"step": step, "learning_rate": rates[step - 1]} | ({"val_loss": dict(losses)[step]} if step in dict(losses) else {})
        for step in range(1, round(share * STEPS) + 1)
        if step != gap
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return losses


def test_a_folder_gives_what_its_curve_gives(tmp_path: Path) -> None:
    losses = write_metrics(tmp_path, 0.5)
    from_folder, direct = forecast_of(tmp_path, is_done=False), forecast(losses, rates_of("cosine"))
    assert from_folder is not None
    assert direct is not None
    assert from_folder.final().middle == pytest.approx(
        direct.final().middle, abs=1e-3
    )  # rates are linear between those planned
    write_metrics(tmp_path, 1.0, plan=None)
    done = forecast_of(tmp_path, is_done=True)
    assert done is not None
    assert done.last is not None


@pytest.mark.parametrize(
    "plan", [None, "much", [], [[1, 2, 3]], [[1, 0.1], [10**12, 0.1]], [[1, 0.1], [20, 0.1]], [[1, 10**400]]]
)
def test_a_training_under_way_without_a_usable_plan_gives_no_forecast(tmp_path: Path, plan: object) -> None:
    write_metrics(tmp_path, 0.5, plan)
    assert forecast_of(tmp_path, is_done=False) is None


@pytest.mark.parametrize("value", [10**400, "much", None, [1]])
def test_damaged_values_give_no_forecast(tmp_path: Path, value: object) -> None:
    write_metrics(tmp_path, 0.5)
    file = tmp_path / "metrics.jsonl"
    before = file.read_text()
    file.write_text(before + json.dumps({"step": 1001, "learning_rate": value}) + "\n")
    made = forecast_of(tmp_path, is_done=False)
    assert made is not None  # the damaged record is left out
    file.write_text(before.replace('"learning_rate": ', '"learning_rate": [0], "other": '))
    assert forecast_of(tmp_path, is_done=False) is None


def test_a_missing_step_gives_no_forecast(tmp_path: Path) -> None:
    write_metrics(tmp_path, 0.5, gap=77)
    assert forecast_of(tmp_path, is_done=False) is None
    assert forecast_of(tmp_path / "nowhere", is_done=True) is None
