"""Roles by hand for a few families, and the proof that silenced blocks change nothing, for many."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from inheritune.arch import Structure, find_structure
from inheritune.arch.roles import identity_values, tensor_roles
from inheritune.errors import InputError

DEPTH = 4
_SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 67),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "lru_width", "embedding_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "dff", "dim_ff", "intermediate_size_mlp", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "mamba_chunk_size", "chunk_size"), 16),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_value_heads", "rotary_dim", "qk_rope_head_dim"), 4),
    **dict.fromkeys(("head_dim", "kv_lora_rank", "q_lora_rank", "v_head_dim", "qk_nope_head_dim", "dim_head"), 8),
    **dict.fromkeys(("hidden_size_per_layer_input", "linear_key_head_dim", "linear_value_head_dim", "mamba_dt_rank"), 8),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "linear_num_key_heads", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("sliding_window", "window_size", "attention_window_size"), 6),
}  # fmt: skip
_LATENT = {"num_key_value_heads": 4, "n_group": 1, "topk_group": 1}
_MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2}

# Every family with what the table of sizes does not give. What a block is silenced by is checked by its effect.
QUICK: dict[str, dict[str, Any]] = {
    "bloom": {},
    "doge": {},
    "falcon_mamba": {},
    "gemma2": {},
    "gpt2": {},
    "gpt_oss": {},
    "llama": {},
    "mpt": {},
    "nemotron_h": {**_LATENT, "n_groups": 2, "mamba_num_heads": 4, "mamba_head_dim": 16, "num_key_value_heads": 2},
    "olmo2": {},
    "opt": {},
    "qwen2_moe": {},
}
LONG: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in
        ("afmoe", "apertus", "arcee", "aria_text", "biogpt", "bitnet", "codegen", "cohere", "cohere2", "cohere2_moe", "cpmant",
         "ctrl", "cwm", "diffllama", "ernie4_5", "exaone4", "falcon", "falcon_mamba", "flex_olmo", "gemma", "gemma3_text",
         "gemma4_text", "glm", "glm4", "gpt_bigcode", "gpt_neox", "gpt_neox_japanese", "gptj", "granite", "granitemoe",
         "granitemoeshared", "helium", "hyperclovax", "inkling_text", "jais2", "jamba", "lfm2", "lfm3", "mamba", "mellum",
         "minimax_m2", "mistral", "mixtral", "modernbert-decoder", "moshi", "nanochat", "nemotron", "olmo", "olmo3", "olmoe",
         "olmo_hybrid", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen3", "qwen3_5_text", "qwen3_moe", "qwen3_next",
         "recurrent_gemma", "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma", "xglm")
    },
    "bamba": {**_MAMBA2, "attn_layer_indices": [1, 3]},
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 64},
    "granitemoehybrid": _MAMBA2,
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 2},
    **dict.fromkeys(("deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu", "axk1"), _LATENT),
    "deepseek_v2": {**_LATENT, "num_experts_per_tok": 2},
    "kimi_linear": {**_LATENT, "linear_head_dim": 8, "linear_num_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], DEPTH // 2]]},
}  # fmt: skip
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "beam": ({"n_group": 1, "topk_group": 1}, "not its input plus branches"),  # each addition is scaled by the depth
    "bert": ({"is_decoder": True}, "a norm follows the addition"),
    "jetmoe": ({}, "it cannot be proved"),
    "minimax": ({}, "not its input plus branches"),  # the normed input is the residual
    "openai-gpt": ({}, "a norm follows the addition"),
    "trocr": ({}, "a norm follows the addition"),
}


def config(kind: str, fields: dict[str, Any], depth: int = DEPTH) -> PretrainedConfig:
    config_class = CONFIG_MAPPING[kind]
    default = config_class()
    legal = config_class.__dataclass_fields__.keys()
    values: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    for name, value in default.to_dict().items():
        if name in _SIZES and (type(value) is int or name == "num_key_value_heads") and name in legal:
            values[name] = min(_SIZES[name], value or _SIZES[name]) if value != 0 else 0
        elif isinstance(value, list) and len(value) == default.num_hidden_layers and name in legal:
            kinds = list(dict.fromkeys(value))
            values[name] = [kinds[place % len(kinds)] for place in range(depth)]
    blocks = default.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    return config_class(**{**values, blocks: depth, **fields})


def build(kind: str, fields: dict[str, Any], depth: int = DEPTH) -> PreTrainedModel:
    """A float32 model with every parameter random: as initialised, biases are zero and gains one."""
    model = AutoModelForCausalLM.from_config(config(kind, fields, depth), dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.2)
        for name, tensor in model.named_buffers():
            if "layer_scalar" in name:
                tensor.fill_(0.7)
    return model.eval()


def skeleton(kind: str, fields: dict[str, Any], depth: int = DEPTH) -> tuple[PreTrainedModel, Structure]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config(kind, fields, depth), dtype=torch.float32)
    return model, find_structure(model)


def silence(block: nn.Module, values: dict[str, float]) -> None:
    tensors = {**dict(block.named_parameters(remove_duplicate=False)), **dict(block.named_buffers())}
    with torch.no_grad():
        for name, value in values.items():
            tensors[name].fill_(value)


def logits_of(model: PreTrainedModel, without: nn.Module | None = None) -> torch.Tensor:
    """Logits of some tokens; the block `without` hands on its input."""

    def hand_on(_: Any, given: Any, named: Any, got: Any) -> Any:
        hidden_BTD = named["hidden_states"] if "hidden_states" in named else given[0]
        return hidden_BTD if torch.is_tensor(got) else (hidden_BTD, *got[1:])

    tokens_BT = torch.randint(3, 67, (2, 16), generator=torch.Generator().manual_seed(1))
    hook = None if without is None else without.register_forward_hook(hand_on, with_kwargs=True)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    if hook is not None:
        hook.remove()
    return logits


def check_silenced(kind: str, fields: dict[str, Any]) -> None:
    """Each block, silenced, does what no block there would do: nothing."""
    empty, structure = skeleton(kind, fields)
    model = build(kind, fields)
    blocks = model.get_submodule(structure.blocks)
    for index, block in enumerate(blocks):
        values = identity_values(empty, structure, index)
        kept = {name: tensor.clone() for name, tensor in block.state_dict().items()}
        expected = logits_of(model, without=block)
        assert (expected - logits_of(model)).abs().max() > 1e-4, "the block has no effect to begin with"
        silence(block, values)
        torch.testing.assert_close(logits_of(model), expected, rtol=0, atol=1e-6)
        block.load_state_dict(kept)
    assert all(not tensor.is_meta for tensor in model.parameters())


@pytest.mark.parametrize("kind", QUICK)
def test_silenced_blocks_change_nothing(kind: str) -> None:
    check_silenced(kind, QUICK[kind])


@pytest.mark.long
@pytest.mark.parametrize("kind", LONG)
def test_silenced_blocks_of_many_families_change_nothing(kind: str) -> None:
    check_silenced(kind, LONG[kind])


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mixtral", "olmo2", "falcon_mamba"])
def test_a_model_with_one_silenced_block_more_gives_the_same_logits(kind: str) -> None:
    """Grown by hand: a deeper model gets all of the shallower one's tensors, its last block is silenced and random."""
    small = build(kind, {})
    empty, structure = skeleton(kind, {}, DEPTH + 1)
    large = build(kind, {}, DEPTH + 1)
    left = large.load_state_dict(small.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert {structure.split(name)[0] for name in left.missing_keys} == {DEPTH}  # type: ignore[index]
    assert (logits_of(large) - logits_of(small)).abs().max() > 1e-3
    silence(large.get_submodule(structure.blocks)[DEPTH], identity_values(empty, structure, DEPTH))
    torch.testing.assert_close(logits_of(large), logits_of(small), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["gemma2", "qwen2_moe", "mpt"])
def test_a_silenced_block_can_learn(kind: str) -> None:
    """Every branch that was silenced has a gradient: no two factors of a product were made zero."""
    empty, structure = skeleton(kind, {})
    model = build(kind, {})
    block = model.get_submodule(structure.blocks)[1]
    values = identity_values(empty, structure, 1)
    silence(block, values)
    tokens_BT = torch.randint(3, 67, (2, 16), generator=torch.Generator().manual_seed(1))
    model(input_ids=tokens_BT, labels=tokens_BT, use_cache=False).loss.backward()
    for name in values:
        gradient = block.get_parameter(name).grad
        assert gradient is not None
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_silenced_is_refused_with_the_reason(kind: str) -> None:
    fields, reason = REFUSED[kind]
    empty, structure = skeleton(kind, fields)
    with pytest.raises(InputError, match=reason) as caught:
        identity_values(empty, structure, 1)
    assert f"{kind}, block 1" in str(caught.value)


def test_opt_is_refused_where_its_norms_stand_after_the_addition() -> None:
    """The tensors are those of any OPT; only the forward shows it."""
    empty, structure = skeleton("opt", {"do_layer_norm_before": False})
    with pytest.raises(InputError, match="a norm follows the addition"):
        identity_values(empty, structure, 0)


def test_a_block_whose_other_results_are_used_is_refused() -> None:
    """ZAYA's router hands its hidden state to the next block's."""
    empty, structure = skeleton("zaya", {})
    with pytest.raises(InputError, match="later blocks use more of it"):
        identity_values(empty, structure, 0)
    assert identity_values(empty, structure, DEPTH - 1)["self_attn.o_proj.weight"] == 0.0


def test_values_are_what_one_would_write_by_hand() -> None:
    def values(kind: str, **fields: Any) -> dict[str, float]:
        return identity_values(*skeleton(kind, fields), 1)

    assert values("llama") == {"self_attn.o_proj.weight": 0.0, "mlp.down_proj.weight": 0.0}
    assert values("gemma2") == {"self_attn.o_proj.weight": 0.0, "mlp.down_proj.weight": 0.0}
    assert values("opt") == dict.fromkeys(
        ("self_attn.out_proj.weight", "self_attn.out_proj.bias", "fc2.weight", "fc2.bias"), 0.0
    )
    assert values("doge") == {
        "input_residual": 1.0,
        "self_attn.o_proj.weight": 0.0,
        "post_attention_residual": 1.0,
        "mlp.down_proj.weight": 0.0,
    }
    assert values("gemma4_text")["layer_scalar"] == 1.0


class Wired(nn.Module):
    """A block that a test wires as it likes."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.inner, self.gate, self.lone = nn.Linear(32, 32), nn.Linear(32, 32), nn.Parameter(torch.ones(32))
        self.norm, self.wiring = nn.LayerNorm(32), forward

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        result: torch.Tensor = self.wiring(self, hidden_states)
        return result


_INNER = {"inner.weight": 0.0, "inner.bias": 0.0}


@pytest.mark.parametrize(
    ("wiring", "expected"),
    [
        (lambda b, x: x + b.inner(x), _INNER),
        (lambda b, x: x + 0.5 * b.inner(x).tanh(), _INNER),
        (lambda b, x: b.lone * b.inner(x) + x, _INNER),
        (lambda b, x: x + b.lone * x, {"lone": 0.0}),
        (lambda b, x: x + (1 + b.lone) * x, {"lone": -1.0}),
        (lambda b, x: x.clone().add_(b.inner(x)), _INNER),
        (lambda b, x: x + b.norm(b.inner(x)), {**_INNER, "norm.bias": 0.0}),
        (lambda b, x: x + torch.zeros_like(x).index_add_(1, torch.arange(4), b.inner(x)), _INNER),
        (lambda b, x: (x.view(-1, 32) + b.inner(x.view(-1, 32))).view_as(x), _INNER),
        (lambda b, x: x * (1 + b.lone) + b.inner(x), {"lone": 0.0, **_INNER}),
        (lambda b, x: b.norm(x + b.inner(x)), None),
        (lambda b, x: b.inner(x), None),
        (lambda b, x: 0.5 * x + b.inner(x), None),
        (lambda b, x: x + x + b.inner(x), None),
        (lambda b, x: x - b.norm(x) * b.inner(x).relu(), None),  # zero, but it would never learn
        (lambda b, x: x + b.inner(x).pow(2), None),
        (lambda b, x: x + b.inner(x).sigmoid(), None),
        (lambda b, x: x.flip(1) + b.inner(x), None),
        (lambda b, x: x + b.lone * x + b.norm(b.lone), {"lone": 0.0, "norm.bias": 0.0}),
        (lambda b, x: x * b.lone + b.lone, None),  # one and zero at once
        (lambda b, x: x.to(torch.bfloat16).to(torch.float32) + b.inner(x), None),
        (lambda b, x: x + b.inner(x) if x.sum() > 0 else x, None),
    ],
)
def test_wirings(wiring: Any, expected: dict[str, float] | None) -> None:
    empty, structure = skeleton("llama", {})
    with torch.device("meta"):
        empty.get_submodule(structure.blocks)[1] = Wired(wiring)  # type: ignore[operator]
    if expected is None:
        with pytest.raises(InputError, match="block 1"):
            identity_values(empty, structure, 1)
    else:
        assert identity_values(empty, structure, 1) == expected


def test_a_parameter_that_stands_elsewhere_too_is_left_alone() -> None:
    """Another block would change with it."""
    empty, structure = skeleton("llama", {})
    blocks = empty.get_submodule(structure.blocks)
    blocks[1].mlp.down_proj = blocks[0].mlp.down_proj  # type: ignore[index]
    assert identity_values(empty, structure, 1) == {"self_attn.o_proj.weight": 0.0, "mlp.gate_proj.weight": 0.0}


def roles_of(kind: str, **fields: Any) -> dict[str, str]:
    model, structure = skeleton(kind, fields)
    roles = tensor_roles(model, structure)
    assert list(roles) == list(model.state_dict())
    return dict(roles)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("llama", {}, {"model.layers.3.self_attn.o_proj": "attention", "model.layers.0.mlp.up_proj": "mlp", "model.layers.0.post_attention_layernorm": "norms", "model.norm": "final_norm", "lm_head": "head"}),
        ("llama", {"tie_word_embeddings": True}, {"lm_head": "embeddings", "model.embed_tokens": "embeddings"}),
        ("qwen3", {}, {"model.layers.1.self_attn.q_norm": "attention"}),
        ("gpt2", {}, {"transformer.wpe": "embeddings", "transformer.h.0.ln_2": "norms", "transformer.h.0.mlp.c_proj": "mlp", "transformer.ln_f": "final_norm", "lm_head": "embeddings"}),
        ("opt", {"word_embed_proj_dim": 16}, {"model.decoder.project_in": "embeddings", "model.decoder.project_out": "head", "model.decoder.layers.0.fc1": "mlp", "model.decoder.layers.0.final_layer_norm": "norms", "model.decoder.final_layer_norm": "final_norm"}),
        ("bloom", {}, {"transformer.word_embeddings_layernorm": "embeddings", "transformer.ln_f": "final_norm"}),
        ("lfm2", {}, {"model.embedding_norm": "final_norm", "model.layers.0.operator_norm": "norms", "model.layers.0.feed_forward.w2": "mlp"}),
        ("gemma4_text", {}, {"model.per_layer_projection_norm": "embeddings", "model.layers.0.per_layer_projection": "mlp", "model.layers.0": "norms"}),
        ("nemotron_h", QUICK["nemotron_h"], {"model.layers.0.mixer.in_proj": "attention", "model.layers.1.mixer.gate": "mlp", "model.norm_f": "final_norm"}),
        ("rwkv", {}, {"rwkv.blocks.0.pre_ln": "norms", "rwkv.blocks.0.attention.key": "attention", "rwkv.blocks.0.feed_forward.key": "mlp", "rwkv.ln_out": "final_norm"}),
        ("gptj", {}, {"lm_head": "head"}),
    ],
)  # fmt: skip
def test_roles(kind: str, fields: dict[str, Any], expected: dict[str, str]) -> None:
    roles = roles_of(kind, **fields)
    for owner, role in expected.items():
        found = {roles[name] for name in roles if name.rpartition(".")[0] == owner}
        assert found == {role}, owner


def test_roles_of_a_model_with_weights_are_those_of_one_without() -> None:
    for kind in ("llama", "gpt2", "bloom", "opt"):
        model = build(kind, {})
        assert tensor_roles(model, find_structure(model)) == roles_of(kind)


def test_a_tensor_of_no_known_role_is_named() -> None:
    model, structure = skeleton("llama", {})
    with torch.device("meta"):
        model.get_submodule(structure.blocks)[2].surprise = nn.Linear(4, 4)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"model\.layers\.2\.surprise\.weight.*inherit all sub-modules"):
        tensor_roles(model, structure)


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(set(LONG) | set(QUICK)))
def test_every_tensor_of_many_families_has_a_role(kind: str) -> None:
    roles = roles_of(kind, **(LONG | QUICK)[kind])
    assert {"embeddings", "attention"} <= set(roles.values())
