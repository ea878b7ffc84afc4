"""Recovery against trainings of models that have only the blocks left."""

from typing import Any

import pytest
import torch
from forward import some_tokens
from test_partial import losses_by_hand
from tiny_families import build
from torch.nn import functional

import inheritune
from inheritune.analysis import Trials, choose_blocks
from inheritune.analysis.choice import divide
from inheritune.analysis.recovery import RATE, Recovery
from inheritune.analysis.trials import LAPS, products_in
from inheritune.recipe import Inherit, check

ROWS, SPARE = some_tokens(2, 17), some_tokens(9, 17)[2:]


def trained_by_hand(model: Any, kept: list[int], rows: list[torch.Tensor]) -> Any:
    """A model of the blocks `kept` after a step on each of `rows`."""
    target = inheritune.inherit(model, kept)
    shared = {*target.get_input_embeddings().parameters(), *target.get_output_embeddings().parameters()}
    weights = [weight for weight in target.parameters() if weight not in shared]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    for tokens_BT in rows:
        optimizer.zero_grad()
        logits_BTV = target.eval()(input_ids=tokens_BT[:, :-1]).logits
        functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
    return target


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("micro_batch", [8, 3])
def test_the_blocks_left_are_trained_as_a_model_of_them_would_be(family: str, micro_batch: int) -> None:
    model, copied = build(family), build(family)
    copied.load_state_dict(model.state_dict())
    recovery = Recovery(copied, SPARE, 4, micro_batch)
    trials = Trials(copied, ROWS, recovery=recovery)
    for block in (1, 2):
        trials.drop(block, *trials.without(block))
    trials.recover()
    trials.recover()
    order = torch.randperm(len(SPARE), generator=torch.Generator().manual_seed(0))
    expected = trained_by_hand(model, [0, 3], [SPARE[order[:4]], SPARE[order[[4, 5, 6, 0]]]])
    assert trials.losses.tolist() == pytest.approx(losses_by_hand(expected.eval(), ROWS), abs=1e-4)
    assert trials.losses.tolist() != pytest.approx(losses_by_hand(inheritune.inherit(model, [0, 3]), ROWS), abs=1e-3)
    without = inheritune.inherit(expected, [1])
    assert trials.without(0)[0].tolist() == pytest.approx(losses_by_hand(without.eval(), ROWS), abs=1e-4)


def test_those_that_race_are_trained_as_models_of_their_own_and_leave_no_trace() -> None:
    model, copied = build("llama"), build("llama")
    copied.load_state_dict(model.state_dict())
    recovery = Recovery(copied, SPARE, 1)
    trials = Trials(copied, ROWS, micro_batch=1, recovery=recovery)
    trials.drop(1, *trials.without(1))
    trials.recover()
    weights = {name: tensor.clone() for name, tensor in copied.state_dict().items()}
    kept, losses = list(trials.kept), trials.losses.clone()
    raced = trials.race([2, 0])
    assert raced is not None
    rows = SPARE[torch.randperm(len(SPARE), generator=torch.Generator().manual_seed(0))][1 : 1 + LAPS].split(1)
    for block, found in zip([2, 0], raced, strict=True):
        expected = trained_by_hand(copied, [other for other in (0, 2, 3) if other != block], list(rows))
        assert found.tolist() == pytest.approx(losses_by_hand(expected.eval(), ROWS), abs=1e-4)
    assert (trials.kept, recovery.steps) == (kept, 1)
    assert torch.equal(trials.losses, losses)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in copied.state_dict().items())
    assert trials.without(2)[0].tolist() == pytest.approx(
        losses_by_hand(inheritune.inherit(copied, [0, 3]), ROWS), abs=1e-4
    )
    assert Trials(model, ROWS).race([0, 1]) is None


def test_products_in_bfloat16_train_too_and_do_not_see_old_weights() -> None:
    model = build("llama")
    with products_in("bfloat16", model):
        trials = Trials(model, ROWS, recovery=Recovery(model, SPARE, 4))
        before = trials.losses
        trials.recover()
        seen = trials.losses
    with products_in("bfloat16", model):
        assert torch.equal(Trials(model, ROWS).losses, seen)
    assert not torch.equal(before, seen)


def test_sequences_to_recover_on_are_others_and_the_model_stays() -> None:
    model = build("llama")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = some_tokens(12, 17)
    wish = Inherit(layers=2, choose="auto", calibration="64 tokens", recovery="32 tokens")
    seen, spare = divide(rows, wish)
    assert seen.tolist() == rows[::3].tolist()
    assert sorted(map(tuple, [*seen.tolist(), *spare.tolist()])) == sorted(map(tuple, rows.tolist()))
    found = choose_blocks(model, rows, wish)
    assert found["recovery_steps"] == 1  # behind the second drop nothing is left to choose; the race is not counted
    assert len(found["finalists"]) == 3
    assert found["finalists"][0]["block"] == found["dropped"][-1]["block"]
    assert f"; {found['dropped'][-1]['block']} as training mends that best, before " in found["reason"]
    assert found["calibration"] == {"sequences": 4, "sequence_length": 16}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    for less in (
        choose_blocks(model, rows, check(Inherit, wish.model_dump() | {"recovery": "none"}, "inherit")),
        choose_blocks(model, seen, wish),
    ):
        assert less["recovery_steps"] == 0
        assert less["finalists"] == []
        assert "mends" not in less["reason"]
    assert choose_blocks(model, rows[:1], wish)["calibration"]["sequences"] == 1
