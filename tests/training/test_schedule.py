import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup, get_wsd_schedule

from inheritune.errors import InputError
from inheritune.recipe import Schedule, Training
from inheritune.training import check_schedule, learning_rate

NAMES = ("cosine", "linear", "wsd", "constant")


def theirs(schedule: Any, *arguments: Any) -> Any:
    """The share of the peak that transformers gives, as a function of the step."""
    return schedule(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), *arguments).lr_lambdas[0]


@pytest.mark.parametrize(
    ("name", "reference"), [("cosine", get_cosine_schedule_with_warmup), ("linear", get_linear_schedule_with_warmup)]
)
def test_it_agrees_with_transformers_where_both_are_defined(name: Any, reference: Any) -> None:
    # transformers' schedule reaches 0 one step after the last; ours reaches `final` at the last
    steps, warm_up, peak = 50, 10, 0.3
    share = theirs(reference, warm_up, steps - 1)
    for step in range(warm_up, steps):
        rate = learning_rate(step, steps, warm_up, 0, peak, Schedule(name=name, final=0.0))
        assert rate == pytest.approx(share(step) * peak, abs=1e-12)


def test_wsd_agrees_with_transformers() -> None:
    steps, warm_up, decay = 50, 10, 12
    # theirs is at the peak in the first step of the decay, ours in the step before
    stable = steps - warm_up - decay - 1
    share = theirs(get_wsd_schedule, warm_up, decay, None, stable, "linear", "linear", 0.2)
    for step in range(warm_up, steps):
        rate = learning_rate(step, steps, warm_up, decay, 0.3, Schedule(name="wsd", final=0.2))
        assert rate == pytest.approx(share(step) * 0.3, abs=1e-12)


@pytest.mark.parametrize(
    ("step", "steps", "warm_up", "final", "bits"),
    [
        (0, 1000, 20, 0.1, "0x1.f75104d551d68p-17"),
        (19, 1000, 20, 0.1, "0x1.3a92a30553261p-12"),
        (20, 1000, 20, 0.1, "0x1.3a92a30553261p-12"),
        (137, 1000, 20, 0.1, "0x1.30b65489c3368p-12"),
        (137, 1000, 20, 0.0, "0x1.2f9dda0a41714p-12"),
        (500, 1000, 20, 0.1, "0x1.62a8dc44042abp-13"),
        (500, 1000, 20, 0.0, "0x1.4429424a63ee2p-13"),
        (998, 1000, 20, 0.1, "0x1.f754011648c3cp-16"),
        (999, 1000, 20, 0.1, "0x1.f75104d551d68p-16"),
        (0, 1, 0, 0.1, "0x1.3a92a30553261p-12"),
        (3, 7, 2, 0.1, "0x1.111c8abdcb9f1p-12"),
    ],
)
def test_the_cosine_keeps_every_bit(step: int, steps: int, warm_up: int, final: float, bits: str) -> None:
    # recorded before the other schedules came, so that a run ends as it did then
    assert learning_rate(step, steps, warm_up, 0, 3e-4, Schedule(final=final)) == float.fromhex(bits)


def test_the_wsd_by_hand() -> None:
    schedule = Schedule(name="wsd", final=0.5)
    rates = [learning_rate(step, 10, 2, 4, 1.0, schedule) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.875, 0.75, 0.625, 0.5])


@st.composite
def trainings(draw: st.DrawFn) -> tuple[int, int, int, float, Schedule]:
    """Steps, warm-up, decay, peak and schedule as `check_schedule` lets them through."""
    steps = draw(st.integers(1, 400))
    warm_up = draw(st.integers(0, steps - 1))
    decay = draw(st.integers(0, steps - warm_up))
    peak = draw(st.floats(1e-8, 10))
    return steps, warm_up, decay, peak, Schedule(name=draw(st.sampled_from(NAMES)), final=draw(st.floats(0, 1)))


@given(trainings())
def test_whatever_the_numbers(training: tuple[int, int, int, float, Schedule]) -> None:
    steps, warm_up, decay, peak, schedule = training
    rates = [learning_rate(step, steps, warm_up, decay, peak, schedule) for step in range(steps)]
    assert all(0 <= rate <= peak * (1 + 1e-15) for rate in rates)
    assert all(a >= b - peak * 1e-15 for a, b in itertools.pairwise(rates[max(0, warm_up - 1) :]))  # never up again
    if warm_up:
        assert rates[warm_up - 1] == pytest.approx(peak, rel=1e-15)
    # no step jumps further than the steepest of the lines and of the cosine
    fall = {"cosine": steps - 1 - warm_up, "linear": steps - 1 - warm_up, "wsd": decay, "constant": steps}[
        schedule.name
    ]
    limit = peak * max(1 / max(1, warm_up), math.pi / 2 / max(1, fall))
    assert all(abs(a - b) <= limit * (1 + 1e-9) for a, b in itertools.pairwise(rates))
    reaches = {"cosine": steps - 1 > warm_up, "linear": steps - 1 > warm_up, "wsd": decay > 0, "constant": False}
    last = schedule.final * peak if reaches[schedule.name] else peak
    assert rates[-1] == pytest.approx(last, rel=1e-12, abs=1e-300)


def test_one_step_is_enough() -> None:
    for name in NAMES:
        assert learning_rate(0, 1, 0, 0, 0.5, Schedule(name=name)) == 0.5


@pytest.mark.parametrize(
    ("warm_up", "decay", "fits"), [("30%", "70%", True), ("31 steps", "70%", False), ("1%", "100 steps", False)]
)
def test_warm_up_and_decay_must_fit_into_the_steps(warm_up: str, decay: str, fits: bool) -> None:
    def settings(name: str) -> Training:
        schedule = {"name": name, "warm_up": warm_up, "decay": decay}
        return Training.model_validate({"length": "100 steps", "schedule": schedule})

    for name in NAMES:
        if fits or name != "wsd":  # the others do not look at decay
            check_schedule(settings(name), 100)
        else:
            with pytest.raises(InputError, match=r"train\.schedule\.decay: .* legal are at most \d+; give a shorter"):
                check_schedule(settings(name), 100)
