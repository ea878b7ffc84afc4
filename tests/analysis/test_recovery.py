"""Recovery against trainings of models that have only the blocks left."""

from typing import Any

import pytest
import torch
from forward import as_rows, some_tokens
from test_partial import losses_by_hand
from tiny_families import build
from torch.nn import functional

import inheritune
from inheritune.analysis import Trials, choose_blocks
from inheritune.analysis import recovery as recovery_module
from inheritune.analysis.choice import divide
from inheritune.analysis.recovery import RATE, Recovery
from inheritune.arch import block_modules
from inheritune.recipe import Inherit, check

ROWS, SPARE = some_tokens(2, 17), some_tokens(9, 17)[2:]


def trained_by_hand(model: Any, kept: list[int], rows: list[torch.Tensor]) -> Any:
    """A model of the blocks `kept` after a step on each of `rows`."""
    target = inheritune.inherit(model, kept)
    weights = [weight for block in block_modules(target) for weight in block.parameters()]
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
@pytest.mark.parametrize("step", [2, 3, 4, 32])
def test_the_blocks_left_are_trained_as_a_model_of_them_would_be(
    family: str, micro_batch: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery_module, "STEP", 16 * step)
    model, copied = build(family), build(family)
    copied.load_state_dict(model.state_dict())
    recovery = Recovery(copied, as_rows(SPARE), 4, micro_batch)
    trials = Trials(copied, as_rows(ROWS), recovery=recovery)
    for block in (1, 2):
        trials.drop(block)
    trials.recover()
    trials.recover()
    order = torch.randperm(len(SPARE), generator=torch.Generator().manual_seed(0))
    rows = [*SPARE[order[:4]].split(step), *SPARE[order[[4, 5, 6, 0]]].split(step)]
    expected = trained_by_hand(model, [0, 3], rows)
    assert recovery.steps == len(rows)
    assert trials.losses.tolist() == pytest.approx(losses_by_hand(expected.eval(), ROWS), abs=1e-4)
    assert trials.losses.tolist() != pytest.approx(losses_by_hand(inheritune.inherit(model, [0, 3]), ROWS), abs=2e-4)
    without = inheritune.inherit(expected, [1])
    assert trials.without(0).tolist() == pytest.approx(losses_by_hand(without.eval(), ROWS), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_only_the_blocks_left_are_trained_whatever_was_frozen(family: str) -> None:
    model = build(family)
    model.requires_grad_(False)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trials = Trials(model, as_rows(ROWS), recovery=Recovery(model, as_rows(SPARE), 4))
    trials.recover()  # block 1 is there still, and the optimizer remembers
    early = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trials.drop(1)
    trials.recover()
    inside = {id(weight): number for number, block in enumerate(block_modules(model)) for weight in block.parameters()}
    for name, tensor in model.named_parameters():
        number = inside.get(id(tensor))
        assert torch.equal(early[name], weights[name]) == (number is None), name
        assert torch.equal(tensor, early[name]) == (number in (None, 1)), name


def test_products_in_bfloat16_train_too_and_do_not_see_old_weights() -> None:
    model = build("llama")
    with torch.autocast("cpu", torch.bfloat16):
        trials = Trials(model, as_rows(ROWS), recovery=Recovery(model, as_rows(SPARE), 4))
        before = trials.losses
        trials.recover()
        seen = trials.losses
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Trials(model, as_rows(ROWS)).losses, seen)
    assert not torch.equal(before, seen)


def test_sequences_to_recover_on_are_others_and_the_model_stays() -> None:
    model = build("llama")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens_NT = some_tokens(12, 17)
    rows = as_rows(tokens_NT)
    spec = Inherit(layers=2, choose="auto", calibration="64 tokens", recovery="32 tokens")
    seen, spare = divide(rows, spec)
    assert seen.windows.tolist() == tokens_NT[::3].tolist()
    assert sorted(map(tuple, [*seen.windows.tolist(), *spare.windows.tolist()])) == sorted(
        map(tuple, tokens_NT.tolist())
    )
    found = choose_blocks(model, rows, spec).to_json()
    assert found["recovery_steps"] == 1  # nothing is left to choose behind the second drop
    assert found["calibration"] == {"sequences": 4, "sequence_length": 16}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    for less in (
        choose_blocks(model, rows, check(Inherit, spec.model_dump() | {"recovery": "none"}, "inherit")).to_json(),
        choose_blocks(model, seen, spec).to_json(),
    ):
        assert less["recovery_steps"] == 0
    assert choose_blocks(model, rows.rows([0]), spec).to_json()["calibration"]["sequences"] == 1
