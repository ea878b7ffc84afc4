"""A model split into base and head gives the loss of its own logits, or is not split."""

from typing import Any

import pytest
import torch
from forward import some_tokens
from parity import config_of, reference_of
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedModel

from inheritune.arch import split_head
from inheritune.losses.functional import token_losses

SPLIT = [
    "gpt2", "llama", "mistral", "qwen2", "qwen3", "phi", "gpt_neox", "opt", "bloom", "falcon", "mixtral", "olmo2",
    "starcoder2", "stablelm", "gptj", "mamba", "cohere", "cohere2", "granite", "granitemoe",
]  # fmt: skip


def made(kind: str, **fields: Any) -> PreTrainedModel:
    """The family's tiny random model, some fields of its config another."""
    if not fields:
        return reference_of(kind)
    from forward import randomised

    config = config_of(kind)
    for name, value in fields.items():
        assert hasattr(config, name)
        setattr(config, name, value)
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), scale=0.1)


def apart(model: PreTrainedModel) -> tuple[float, float]:
    """The greatest difference between the tokens' losses, and between the gradients, of both ways."""
    head = split_head(model)
    assert head.linear is not None
    tokens_BT = some_tokens(2, 12)
    inputs_BT, targets_BT = tokens_BT[:, :-1], tokens_BT[:, 1:]
    found = []
    for through_head in (False, True):
        model.zero_grad()
        if through_head:
            states_ND = head.states(head.outputs(input_ids=inputs_BT)).flatten(0, 1)
            loss = head.cross_entropy(states_ND, targets_BT.flatten(), "whole")
        else:
            loss = token_losses(model(input_ids=inputs_BT, use_cache=False).logits, targets_BT).sum()
        (loss / targets_BT.numel()).backward()
        gradients = [p.grad.flatten().clone() for p in model.parameters() if p.grad is not None]
        found.append((loss.item() / targets_BT.numel(), torch.cat(gradients)))
    return abs(found[0][0] - found[1][0]), (found[0][1] - found[1][1]).abs().max().item()


@pytest.mark.parametrize("kind", SPLIT)
def test_the_loss_through_the_head_is_that_of_the_models_logits(kind: str) -> None:
    loss, gradient = apart(made(kind))
    assert loss < 1e-5
    assert gradient < 1e-5


@pytest.mark.parametrize(
    ("kind", "fields", "scale"),
    [
        ("cohere", {"logit_scale": 0.25}, 0.25),
        ("cohere2", {"logit_scale": 3.0}, 3.0),
        ("granite", {"logits_scaling": 2.0}, 0.5),
        ("granitemoe", {"logits_scaling": 8.0}, 0.125),
    ],
)
def test_scaled_heads(kind: str, fields: dict[str, float], scale: float) -> None:
    model = made(kind, **fields)
    head = split_head(model)
    assert head.linear is not None
    assert head.scale == scale
    assert max(apart(model)) < 1e-5


def test_minicpm3_is_split_or_left_whole() -> None:
    model = made("minicpm3")
    if split_head(model).linear is not None:
        assert max(apart(model)) < 1e-5


def test_capped_logits_are_not_split() -> None:
    assert split_head(made("gemma2", final_logit_softcapping=2.0)).linear is None
    assert split_head(made("gemma2")).linear is None
    model = made("gemma2", final_logit_softcapping=None)
    assert split_head(model).linear is not None
    assert max(apart(model)) < 1e-5


def test_a_head_that_is_no_linear_layer_is_not_split() -> None:
    model = made("llama")

    class Doubled(torch.nn.Linear):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return super().forward(given) * 2

    whole = model.lm_head
    model.lm_head = Doubled(whole.in_features, whole.out_features, bias=False)
    assert split_head(model).linear is None


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = made("gpt2").train(training)
    state = torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    head = split_head(model)
    assert head.linear is not None
    assert all(module.training is training for module in model.modules())
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert head.linear is model.lm_head


def test_capped_logits_are_told_while_they_are_small() -> None:
    """A new model's logits are so small that the cap of 30 changes them in the sixth digit only."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=67, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    assert model(input_ids=torch.arange(8)[None]).logits.abs().max() < 0.3
    assert split_head(model).linear is None


@pytest.mark.parametrize("mask", [float("-inf"), torch.finfo(torch.float32).min])
def test_a_head_that_forbids_entries_is_split(mask: float) -> None:
    model = made("llama")
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(67))
    model.lm_head.bias.data[:3] = mask  # none of `some_tokens`
    assert max(apart(model)) < 1e-5


def test_a_scale_is_not_split_from_a_bias() -> None:
    """While the bias is zero, nothing shows that it is scaled too; its gradient would be another one."""
    model = made("granite", logits_scaling=2.0)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(67))
    assert split_head(model).linear is None
