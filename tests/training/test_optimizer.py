import itertools
import math

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from inheritune.recipe import Optimizer, Schedule
from inheritune.training import build_optimizer, learning_rate


def test_cosine_agrees_with_transformers_where_both_are_defined() -> None:
    # transformers' schedule reaches 0 one step after the last; ours reaches `final` at the last
    steps, warm_up, peak = 50, 10, 0.3
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    theirs = get_cosine_schedule_with_warmup(optimizer, warm_up, steps - 1)
    for step in range(warm_up, steps):
        expected = theirs.lr_lambdas[0](step) * peak
        assert learning_rate(step, steps, warm_up, peak, Schedule(final=0.0)) == pytest.approx(expected, abs=1e-12)


def test_warm_up_rises_to_the_peak_and_the_last_step_has_the_final_rate() -> None:
    schedule = Schedule(final=0.1)
    rates = [learning_rate(step, 20, 5, 1.0, schedule) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))


def test_constant_stays_and_one_step_is_enough() -> None:
    assert {learning_rate(step, 9, 0, 0.5, Schedule(name="constant")) for step in range(9)} == {0.5}
    assert math.isfinite(learning_rate(0, 1, 0, 0.5, Schedule()))


def test_matrices_decay_and_vectors_do_not() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, Optimizer(learning_rate=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.1 * 0.5 if before[name].dim() >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
