"""What comes along and what is new: sub-modules, random, stacking, half width; in memory, each against a slow formula."""

from typing import Any

import pytest
import torch
from tiny_families import DEPTH, build, logits_of, some_tokens
from transformers import AutoModelForCausalLM

from inheritune.arch import build_random, first_units, narrow
from inheritune.errors import InputError
from inheritune.inheritance import derive, inherit, inherit_settings
from inheritune.recipe import FIRST_HALF, HALF

# For each role what its tensors are called in a Llama.
NAMES = {
    "attention": ".self_attn.",
    "mlp": ".mlp.",
    "norms": "_layernorm.",
    "final_norm": "model.norm.",
    "embeddings": "embed_tokens",
    "head": "lm_head",
}


@pytest.mark.parametrize(
    "wanted",
    [
        ["attention"],
        ["mlp"],
        ["attention", "mlp"],
        ["norms", "final_norm"],
        ["embeddings"],
        ["head", "norms"],
        list(NAMES),
    ],
    ids="+".join,
)
def test_what_is_named_comes_along_and_the_rest_is_drawn_as_for_a_random_model(wanted: list[str]) -> None:
    reference = build("llama")
    target, plan = derive(reference, inherit_settings([1, 3], submodules=wanted), seed=5)
    random = build_random(target.config, 5).state_dict()
    source = reference.state_dict()
    for name, tensor in target.state_dict().items():
        origin = (
            name.replace("layers.0.", "layers.X.").replace("layers.1.", "layers.3.").replace("layers.X.", "layers.1.")
        )
        taken = any(NAMES[role] in name for role in wanted)
        assert torch.equal(tensor, source[origin] if taken else random[name]), name
        assert (name in plan.fresh) == (not taken)


def test_none_is_the_random_model_and_seeds_differ() -> None:
    reference = build("llama")
    target = inherit(reference, 2, submodules="none", seed=3)
    expected = build_random(target.config, 3).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in target.state_dict().items())
    other = inherit(reference, 2, submodules="none", seed=4).state_dict()
    assert not torch.equal(other["lm_head.weight"], expected["lm_head.weight"])


def test_drawing_does_not_disturb_the_caller_s_random_numbers() -> None:
    reference = build("llama")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    inherit(reference, 2, submodules="none", seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_a_tied_head_comes_with_the_embeddings() -> None:
    reference = build("qwen2")
    target, plan = derive(reference, inherit_settings(2, submodules="embeddings"))
    assert torch.equal(target.lm_head.weight, reference.lm_head.weight)
    assert target.lm_head.weight is target.model.embed_tokens.weight
    assert plan.tied == (("lm_head.weight", "model.embed_tokens.weight"),)
    with pytest.raises(InputError, match=r"submodules: the model has no head of its own; its head is tied"):
        derive(reference, inherit_settings(2, submodules="head"))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_stacked_is_the_same_blocks_twice(kind: str) -> None:
    """Hybrid stacking from the full reference; stacking proper from one half as deep as the target."""
    reference = build(kind)
    for count in (2, DEPTH, 2 * DEPTH):
        target = inherit(reference, count, "stacked")
        assert target.config.num_hidden_layers == count
        half = inherit(reference, count // 2) if count < 2 * DEPTH else reference
        names = half.state_dict()
        for name, tensor in target.state_dict().items():
            parts = name.split(".")
            numbers = [at for at, part in enumerate(parts) if part.isdigit()]
            if numbers:
                parts[numbers[0]] = str(int(parts[numbers[0]]) % (count // 2))
            assert torch.equal(tensor, names[".".join(parts)]), name
        logits_of(target, some_tokens())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "phi3"])
def test_half_width_is_saved_as_any_model(kind: str, tmp_path: Any) -> None:
    reference = build(kind)
    target = inherit(reference, [0, 2], **FIRST_HALF, out=tmp_path / "model")
    assert target.config.num_attention_heads == reference.config.num_attention_heads // 2
    assert target.config.num_hidden_layers == 2
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(logits_of(loaded.eval(), some_tokens()), logits_of(target, some_tokens()))


def test_half_width_of_a_llama_is_its_first_halves() -> None:
    reference = build("llama")
    target = inherit(reference, "all", **FIRST_HALF)
    assert target.config.to_dict() == narrow(reference.config, first_units(reference.config, HALF)).to_dict()
    source, found = reference.model.layers[3], target.model.layers[3]
    assert torch.equal(found.self_attn.q_proj.weight, source.self_attn.q_proj.weight[:16, :16])
    assert torch.equal(found.self_attn.k_proj.weight, source.self_attn.k_proj.weight[:8, :16])  # 2 kv heads of 8
    assert torch.equal(found.self_attn.o_proj.weight, source.self_attn.o_proj.weight[:16, :16])
    assert torch.equal(found.mlp.down_proj.weight, source.mlp.down_proj.weight[:16, :24])
    assert torch.equal(target.lm_head.weight, reference.lm_head.weight[:, :16])


def test_half_width_with_new_parts() -> None:
    reference = build("llama")
    target, plan = derive(reference, inherit_settings(2, submodules=["attention"], **FIRST_HALF), seed=7)
    random = build_random(target.config, 7).state_dict()
    for name, tensor in target.state_dict().items():
        if ".self_attn." in name:
            assert torch.equal(tensor, reference.state_dict()[name][tuple(slice(0, n) for n in tensor.shape)])
        else:
            assert torch.equal(tensor, random[name])
            assert name in plan.fresh
