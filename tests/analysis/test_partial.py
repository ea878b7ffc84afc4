"""Forwards with blocks left out against the models that `inherit` makes of those that are kept."""

from typing import Any

import pytest
import torch
from forward import VOCABULARY, as_rows, logits_of, randomised, some_tokens
from tiny_families import FAMILIES, build
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

import inheritune
from inheritune.analysis import Partial, Trials

SELECTIONS = [[0], [0, 1], [0, 2, 3], [1, 3], [2], [0, 1, 2]]


def losses_by_hand(model: PreTrainedModel, tokens_BT: torch.Tensor) -> list[float]:
    """The mean negative log-likelihood of each sequence, from the logits, in float64."""
    logs_BTV = logits_of(model, tokens_BT[:, :-1]).double().log_softmax(-1)
    return [
        -sum(float(logs_BTV[row, at, token]) for at, token in enumerate(tokens[1:])) / (len(tokens) - 1)
        for row, tokens in enumerate(tokens_BT.tolist())
    ]


@pytest.mark.parametrize("kind", FAMILIES)
def test_blocks_left_out_are_blocks_not_inherited(kind: str) -> None:
    model, tokens_BT = build(kind), some_tokens(2, 11)
    part = Partial(model, as_rows(tokens_BT).examples())
    assert part.resumes
    assert part.whole.tolist() == pytest.approx(losses_by_hand(model, tokens_BT), abs=1e-5)
    assert len(part.states) == 5
    for kept in SELECTIONS:
        target = inheritune.inherit(model, kept).eval()
        expected = losses_by_hand(target, tokens_BT)
        assert part.losses(kept).tolist() == pytest.approx(expected, abs=2e-5)
        # and behind the first block that is missing, from the stored hidden states
        missing = next(block for block in range(4) if block not in kept)
        assert part.losses(kept, missing + 1, part.states[missing]).tolist() == pytest.approx(expected, abs=2e-5)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_states_are_the_inputs_of_the_blocks_and_the_last_output() -> None:
    model, tokens_BT = build("llama"), some_tokens(2, 11)
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda _, given, got: seen.append(got)) for block in model.model.layers]
    embedded = model.model.embed_tokens(tokens_BT[:, :-1])
    logits_of(model, tokens_BT[:, :-1])
    for handle in handles:
        handle.remove()
    part = Partial(model, as_rows(tokens_BT).examples())
    assert all(torch.equal(held, expected) for held, expected in zip(part.states, [embedded, *seen], strict=True))
    behind: list[torch.Tensor] = []
    part.losses([0, 2, 3], 2, part.states[1], behind)  # block 1 left out: block 2 gets its input
    assert len(behind) == 3
    assert torch.equal(behind[0], part.states[1])


def remembering() -> Any:
    """A model whose blocks see more than the one before hands on: what the first one has put down in this forward."""
    model = build("llama")
    for at, block in enumerate(model.model.layers):
        own, memory = block.forward, model.__dict__.setdefault("memory", {})

        def forward(hidden: torch.Tensor, *, own: Any = own, at: int = at, memory: Any = memory, **named: Any) -> Any:
            if at == 0:
                memory["first"] = hidden.roll(1, -1)
                return own(hidden, **named)
            return own(hidden + memory.get("first", 0), **named)

        block.forward = forward
    model.model.register_forward_pre_hook(lambda *_: model.__dict__["memory"].clear())
    return model


def without(model: Any, block: int) -> Any:
    """The same model with a block taken out of its list."""
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([one for at, one in enumerate(layers) if at != block])
    return layers


def test_blocks_that_see_more_than_hidden_states_take_whole_passes() -> None:
    model, tokens_BT = remembering(), some_tokens(2, 11)
    overridden = [block.__dict__["forward"] for block in model.model.layers]
    trials = Trials(model, as_rows(tokens_BT))
    assert not trials.resumes
    for block in range(4):
        found = trials.without(block).tolist()
        layers = without(model, block)
        expected = losses_by_hand(model, tokens_BT)
        model.model.layers = layers
        assert found == pytest.approx(expected, abs=2e-5)
    trials.drop(2)
    layers = without(model, 2)
    shorter = model.model.layers
    model.model.layers = torch.nn.ModuleList([shorter[0], shorter[2]])
    expected = losses_by_hand(model, tokens_BT)
    model.model.layers = layers
    assert trials.without(1).tolist() == pytest.approx(expected, abs=2e-5)
    assert [block.__dict__["forward"] for block in model.model.layers] == overridden  # a forward of its own stays


def test_a_block_that_stands_in_the_list_twice_is_told_by_its_place() -> None:
    model, tokens_BT = build("llama"), some_tokens(2, 11)
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([layers[0], layers[1], layers[0], layers[2]])
    part = Partial(model, as_rows(tokens_BT).examples())
    found = part.losses([0, 1, 3]).tolist()
    model.model.layers = torch.nn.ModuleList([layers[0], layers[1], layers[2]])
    assert found == pytest.approx(losses_by_hand(model, tokens_BT), abs=2e-5)
    assert found != pytest.approx(part.whole.tolist(), abs=1e-3)


def test_trials_go_on_from_what_was_dropped() -> None:
    model, tokens_BT = build("qwen3"), some_tokens(5, 11)
    trials = Trials(model, as_rows(tokens_BT), micro_batch=2)
    assert trials.losses.shape == (5,)
    dropped: list[int] = []
    for block in (2, 0, 3):  # in the middle, the first, the last
        trials.drop(block)
        dropped.append(block)
        kept = [other for other in range(4) if other not in dropped]
        assert trials.kept == kept
        target = inheritune.inherit(model, kept).eval()
        assert trials.losses.tolist() == pytest.approx(losses_by_hand(target, tokens_BT), abs=2e-5)


def test_depth_losses_are_those_of_the_first_blocks_and_skips_those_of_the_rest() -> None:
    model, tokens_BT = build("gpt2"), some_tokens(3, 11)
    trials = Trials(model, as_rows(tokens_BT))
    increases = trials.skip_increases()
    whole = losses_by_hand(model, tokens_BT)
    for block in range(4):
        depth = trials.at_depth(block + 1).tolist()
        first = inheritune.inherit(model, block + 1).eval()
        assert depth == pytest.approx(losses_by_hand(first, tokens_BT), abs=2e-5)
        rest = inheritune.inherit(model, [other for other in range(4) if other != block]).eval()
        expected = [one - other for one, other in zip(losses_by_hand(rest, tokens_BT), whole, strict=True)]
        assert increases[block].tolist() == pytest.approx(expected, abs=3e-5)


def test_a_model_of_one_block() -> None:
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    model, tokens_BT = randomised(GPT2LMHeadModel(config)), some_tokens(2, 11)
    part = Partial(model, as_rows(tokens_BT).examples())
    assert part.resumes
    assert part.whole.tolist() == pytest.approx(losses_by_hand(model, tokens_BT), abs=1e-5)
