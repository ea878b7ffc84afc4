"""A model with rotated hidden channels computes what it did; what cannot be rotated is refused."""

import copy
from typing import Any

import pytest
import torch
from forward import logits_of, randomised, some_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config
from transformers import AutoModelForCausalLM

from inheritune.arch import Selection, block_modules
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive, keep_magnitudes, rotate

TOKENS_BT = some_tokens(3, 20)


def tiny(kind: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(tiny_config(kind, **changes), dtype=torch.float32))


def rotation(size: int = 32, seed: int = 0) -> torch.Tensor:
    draw = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(draw)[0]


def states(model: Any, block: int) -> torch.Tensor:
    """What a block returns."""
    seen: list[Any] = []
    hook = block_modules(model)[block].register_forward_hook(lambda _, __, output: seen.append(output))
    logits_of(model, TOKENS_BT)
    hook.remove()
    return seen[0] if torch.is_tensor(seen[0]) else seen[0][0]


RMS = {
    "llama": {}, "llama, tied": {"tie_word_embeddings": True}, "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "qwen3": {}, "mistral": {}, "mixtral": {}, "qwen3_moe": {"head_dim": 8}, "phi3": {"head_dim": 8},
}  # fmt: skip


@pytest.mark.parametrize("name", RMS)
def test_at_full_width_the_logits_are_the_references(name: str) -> None:
    model, turn_DD = tiny(name.partition(",")[0], **RMS[name]), rotation()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = logits_of(model, TOKENS_BT)
    rotated = rotate(model, turn_DD)
    torch.testing.assert_close(
        logits_of(rotated, TOKENS_BT), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )
    torch.testing.assert_close(states(rotated, 1).double(), states(model, 1).double() @ turn_DD.T, rtol=1e-3, atol=1e-3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    gain = float(before["model.norm.weight"].square().mean().sqrt())
    torch.testing.assert_close(rotated.model.norm.weight, torch.full((32,), gain))
    assert rotated.lm_head.weight is not rotated.model.embed_tokens.weight
    assert not rotated.config.tie_word_embeddings


def test_a_rotated_model_learns_at_the_rate_of_the_reference() -> None:
    """With gains of a twentieth, as trained models have them; matrices that had taken them over would learn faster."""
    model = tiny("llama")
    with torch.no_grad():
        for name, weight in model.model.layers.named_parameters():
            if "layernorm" in name:
                weight.mul_(0.05)
            elif name.split(".")[2] in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
                weight.mul_(20)
    before, after = (losses_of_a_training(one) for one in (model, rotate(model, rotation())))
    assert before[0] - before[-1] > 0.1
    torch.testing.assert_close(after, before, rtol=0, atol=0.03 * (before[0] - before[-1]))


def losses_of_a_training(model: Any) -> list[float]:
    """The loss before each of ten steps of AdamW."""
    model = copy.deepcopy(model).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    found = []
    for _ in range(10):
        loss = model(input_ids=TOKENS_BT, labels=TOKENS_BT).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    return found


@pytest.mark.long
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), noise=st.floats(0.01, 0.5), tied=st.booleans())
def test_any_rotation_of_any_weights_keeps_the_function(seed: int, noise: float, tied: bool) -> None:
    config = tiny_config("llama", num_hidden_layers=2, tie_word_embeddings=tied)
    model = randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), seed, noise)
    expected = logits_of(model, TOKENS_BT)
    found = logits_of(rotate(model, rotation(seed=seed)), TOKENS_BT)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("gemma3_text", "its embeddings are changed before the first block"),
        ("gemma2", "its embeddings are changed"),
        ("gemma", "its embeddings are changed"),
        ("olmo2", "no matrix alone reads model.layers.0.post_attention_layernorm"),
        ("gpt2", "its heads are slices of its hidden size"),
        ("cohere", r"norm is no root mean square norm"),
        ("glm4", "no matrix alone reads model.layers.0.post_self_attn_layernorm"),
    ],
)
def test_what_cannot_be_rotated_is_refused(kind: str, said: str) -> None:
    changes = {"head_dim": 8} if kind in ("cohere", "glm4") else {}
    with pytest.raises(InputError, match=f"{said}.*; (select hidden channels instead|keep the full width)"):
        rotate(tiny(kind, **changes), rotation())


def test_a_matrix_that_is_no_rotation_is_refused() -> None:
    with pytest.raises(InputError, match="rotated, its logits are not the same"):
        rotate(tiny("llama"), 2 * rotation())


def test_gains_make_up_for_channels_that_are_gone() -> None:
    """Where the dropped channels are zero, the target gives the reference's logits."""
    model, hidden = tiny("llama"), tuple(range(24))
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 24:] = 0
        for block in model.model.layers:
            block.self_attn.o_proj.weight[24:] = 0
            block.mlp.down_proj.weight[24:] = 0
    target, plan = derive(model, TargetSpec((0, 1, 2, 3, 4, 5), width=Selection(hidden=hidden)))
    expected = logits_of(model, TOKENS_BT)
    assert float((logits_of(target, TOKENS_BT) - expected).abs().max()) > 1e-2
    norms = [name for name, _ in model.named_modules() if name.endswith("norm")]
    keep_magnitudes(target, model, plan.kept, dict.fromkeys(norms, 1.0))
    torch.testing.assert_close(logits_of(target, TOKENS_BT), expected, rtol=1e-3, atol=1e-3)
