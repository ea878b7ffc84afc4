"""What one pass finds, against hooks and autograd on whole forwards."""

from typing import Any

import pytest
import torch
from forward import as_inputs, as_rows, randomised, some_tokens
from tiny import tiny_config
from transformers import AutoModelForCausalLM

from inheritune.arch import block_modules
from inheritune.errors import InputError
from inheritune.inheritance.units import collect_statistics

TOKENS_BT = some_tokens(5, 12)


def tiny(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(tiny_config(kind, **changes), dtype=torch.float32))


def caught(model: Any, module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and the output (N, ...) of a module."""
    seen: list[Any] = []
    hook = module.register_forward_hook(lambda _, args, output: seen.extend([args[0], output]))
    with torch.no_grad():
        model(input_ids=TOKENS_BT, use_cache=False)
    hook.remove()
    first, last = (one if torch.is_tensor(one) else one[0] for one in seen)
    return first.flatten(0, 1).double(), last.flatten(0, 1).double()


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_inputs_of_the_matrices_behind_neurons_and_heads(kind: str) -> None:
    model = tiny(kind)
    block = block_modules(model)[2]
    found = collect_statistics(model, as_inputs(TOKENS_BT), ["inputs"], blocks=[2, 4], micro_batch=2)
    assert found.inputs.keys() == {(2, "neurons"), (2, "heads"), (4, "neurons"), (4, "heads")}
    weights_N1 = 1 / caught(model, block)[1].norm(dim=1, keepdim=True)
    for axis, module in (("neurons", block.mlp.down_proj), ("heads", block.self_attn.o_proj)):
        inputs_NK = caught(model, module)[0]
        sums = found.inputs[2, axis]
        torch.testing.assert_close(sums.products_KK, (inputs_NK * weights_N1).T @ inputs_NK, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sums.absolute_K, (inputs_NK.abs() * weights_N1).sum(0), rtol=1e-4, atol=1e-6)


def test_hidden_states_between_blocks_and_what_goes_into_norms() -> None:
    model = tiny("llama")
    found = collect_statistics(model, as_inputs(TOKENS_BT), ["stream"], micro_batch=2)
    pairs = [caught(model, block) for block in block_modules(model)]
    states = [before for before, _ in pairs] + [pairs[-1][1]]
    units_ND = torch.cat([state_ND / state_ND.norm(dim=1, keepdim=True) for state_ND in states])
    torch.testing.assert_close(found.products_DD, units_ND.T @ units_ND / len(units_ND), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.absolute_D, units_ND.abs().mean(0), rtol=1e-4, atol=1e-6)
    assert len(found.norms) == 2 * 6 + 1
    before_ND = caught(model, model.model.layers[1].post_attention_layernorm)[0]
    shares_D = (before_ND.square() / before_ND.square().sum(1, keepdim=True)).mean(0)
    torch.testing.assert_close(found.norms["model.layers.1.post_attention_layernorm"], shares_D, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_by_weights(tied: bool) -> None:
    model = tiny("llama", tie_word_embeddings=tied)
    rows = as_rows(TOKENS_BT)
    found = collect_statistics(model, rows, ["gradients"])
    assert all(one.grad is None for one in model.parameters())
    logits = model(input_ids=TOKENS_BT[:, :-1], use_cache=False).logits
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS_BT[:, 1:].flatten(), reduction="sum").backward()
    block = model.model.layers[3]
    effects = {name: (one.grad * one).abs().double() for name, one in model.named_parameters()}
    down_DK, out_DK = (effects[f"model.layers.3.{name}.weight"] for name in ("mlp.down_proj", "self_attn.o_proj"))
    torch.testing.assert_close(found.gradients[3, "neurons"].double(), down_DK.sum(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        found.gradients[3, "heads"].double(), out_DK.sum(0).view(4, 8).sum(1), rtol=1e-3, atol=1e-4
    )
    width = block.input_layernorm.weight.shape[0]
    sums_D = torch.zeros(width, dtype=torch.float64)
    for name, effect in effects.items():
        if effect.dim() == 1 or name.endswith(("o_proj.weight", "down_proj.weight")):
            sums_D += effect.reshape(width, -1).sum(1)
        else:
            sums_D += effect.sum(0)
    torch.testing.assert_close(found.gradients[None, "hidden"], sums_D, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "fields"), [("mixtral", {}), ("qwen3_moe", {}), ("deepseek_v3", {"n_group": 2, "topk_group": 1})]
)
def test_what_routers_give_experts(kind: str, fields: dict[str, Any]) -> None:
    model = tiny(kind, **fields)
    found = collect_statistics(model, as_inputs(TOKENS_BT), ["routing"], micro_batch=2)
    number = max(found.routing)
    given: list[torch.Tensor] = []
    experts = block_modules(model)[number].mlp.experts
    hook = experts.register_forward_pre_hook(lambda _, args: given.extend(args))
    with torch.no_grad():
        model(input_ids=TOKENS_BT, use_cache=False)
    hook.remove()
    _, chosen, weights = given
    for expert in range(4):
        assert found.routing[number].counts_E[expert] == (chosen == expert).sum()
        expected = weights[chosen == expert].double().sum()
        torch.testing.assert_close(found.routing[number].weights_E[expert], expected, rtol=1e-4, atol=1e-6)


def test_several_hidden_states_for_each_token_are_refused() -> None:
    with pytest.raises(InputError, match="block 0 returns several hidden states for each token"):
        collect_statistics(tiny("gemma3n_text", num_kv_shared_layers=0), as_inputs(TOKENS_BT), ["inputs"])
