import copy
import json
import math
import re
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from inheritune.arch import Runs, Selection, first_units, kept_indices, narrow
from inheritune.errors import InputError
from inheritune.recipe import HALF

VOCABULARY = 40
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}

_LLAMA = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
_GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 32}
_FALCON = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "ffn_hidden_size": 80}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _LLAMA),
    "llama, tied": ("llama", _LLAMA | {"tie_word_embeddings": True}),
    "llama, MLP of 3 x hidden": ("llama", _LLAMA | {"intermediate_size": 96, "num_key_value_heads": 4}),
    "llama, multi-query": ("llama", _LLAMA | {"num_key_value_heads": 1}),
    "llama, 9 heads of 3 groups": ("llama", _LLAMA | {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3}),
    "gpt2": ("gpt2", _GPT),
    "gpt2, odd heads": ("gpt2", _GPT | {"n_head": 5, "n_embd": 40}),
    "gpt2, MLP of 3 x hidden": ("gpt2", _GPT | {"n_inner": 96}),
    "neox": ("gpt_neox", _LLAMA),
    "phi3": ("phi3", _LLAMA),
    "phi3, odd groups": ("phi3", _LLAMA | {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 48}),
    "falcon, grouped": ("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, one group": ("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 1}),
    "falcon, multi-query": ("falcon", _FALCON | {"multi_query": True}),
    "falcon, head by head": ("falcon", _FALCON | {"multi_query": False, "alibi": False}),
    "opt": ("opt", {"num_hidden_layers": 2, "hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4, "word_embed_proj_dim": 16}),
    "bloom": ("bloom", {"n_layer": 2, "hidden_size": 32, "n_head": 4}),
    "mixtral": ("mixtral", _LLAMA | _EXPERTS),
    "qwen3": ("qwen3", _LLAMA | {"head_dim": 12}),
    "qwen3_next": ("qwen3_next", _LLAMA | {
            "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
            "linear_value_head_dim": 6, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 24, "layer_types": ["linear_attention", "full_attention"],
    }),
    "deepseek_v3": ("deepseek_v3", _LLAMA | {
            "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4,
            "v_head_dim": 10, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
            "moe_intermediate_size": 16, "n_shared_experts": 2, "first_k_dense_replace": 1,
    }),
    "gemma2": ("gemma2", _LLAMA | {"head_dim": 8, "query_pre_attn_scalar": 8}),
    "starcoder2": ("starcoder2", _LLAMA),
    "gpt_bigcode": ("gpt_bigcode", _GPT),
    "gpt_bigcode, head by head": ("gpt_bigcode", _GPT | {"multi_query": False}),
    "gpt_oss": ("gpt_oss", _LLAMA | _EXPERTS | {"head_dim": 8}),
    "codegen": ("codegen", _GPT | {"n_head": 8, "rotary_dim": 4}),
    "dbrx": ("dbrx", {
            "n_layers": 2, "d_model": 32, "n_heads": 4, "max_seq_len": 32, "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
            "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    }),
    "olmo2": ("olmo2", _LLAMA),
    "glm4": ("glm4", _LLAMA | {"head_dim": 8}),
    "mpt": ("mpt", {"n_layers": 2, "d_model": 32, "n_heads": 4, "max_seq_len": 32}),
}  # fmt: skip


def config(kind: str, **fields: Any) -> Any:
    return CONFIG_MAPPING[kind](**(TOKENS | copy.deepcopy(fields)))


def tiny(name: str) -> Any:
    kind, fields = TINY[name]
    return config(kind, **fields)


def empty(given: Any) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(given)


def halve(given: Any) -> Any:
    return narrow(given, first_units(given, HALF))


def kept_ranges(source: PreTrainedModel, target: PreTrainedModel) -> dict[str, tuple[Runs, ...]]:
    return kept_indices(source, target, first_units(source.config, HALF))


def indices(ranges: Runs) -> Tensor:
    return torch.cat([torch.arange(start, end) for start, end in ranges])


def taken(tensor: Tensor, ranges: tuple[Runs, ...]) -> Tensor:
    for dimension, kept in enumerate(ranges):
        tensor = tensor.index_select(dimension, indices(kept))
    return tensor


def checked(given: Any) -> dict[str, tuple[Runs, ...]]:
    """The ranges for a config, each of them inside the source, used once, and as long as the target's dimension."""
    source, target = empty(given), empty(halve(given))
    found = kept_ranges(source, target)
    shapes = {name: tensor.shape for name, tensor in source.state_dict().items()}
    assert found.keys() == target.state_dict().keys() == shapes.keys()
    for name, tensor in target.state_dict().items():
        assert len(found[name]) == tensor.ndim
        for size, length, ranges in zip(shapes[name], tensor.shape, found[name], strict=True):
            places = [place for start, end in ranges for place in range(start, end)]
            assert len(places) == len(set(places)) == length
            assert all(0 <= place < size for place in places)
    return found


class TestConfig:
    @pytest.mark.parametrize(
        ("kind", "fields", "expected"),
        [
            ("gpt2", {"n_head": 16, "n_embd": 1024}, {"n_head": 8, "n_embd": 512, "n_inner": None}),
            ("gpt2", {"n_head": 20, "n_embd": 1280, "n_inner": 4096}, {"n_head": 10, "n_embd": 640, "n_inner": 2048}),
            ("gpt2", {"n_head": 25, "n_embd": 1600}, {"n_head": 12, "n_embd": 768, "n_inner": None}),
            # SmolLM2-135M: one whole group of three stays, with heads of the same size
            ("llama", {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576, "intermediate_size": 1536},
             {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 288, "intermediate_size": 768, "head_dim": 64}),
            # 800 is no multiple of 12 heads, which Llama's config asks for
            ("llama", {"num_attention_heads": 25, "num_key_value_heads": 25, "hidden_size": 1600},
             {"num_attention_heads": 12, "num_key_value_heads": 12, "hidden_size": 768, "head_dim": 64}),
            ("gemma2", {"num_attention_heads": 8, "num_key_value_heads": 1, "hidden_size": 2048, "head_dim": 256},
             {"num_attention_heads": 4, "num_key_value_heads": 1, "hidden_size": 1024, "head_dim": 256, "query_pre_attn_scalar": 256}),
            ("opt", {"hidden_size": 1024, "word_embed_proj_dim": 512, "num_attention_heads": 16}, {"hidden_size": 512, "word_embed_proj_dim": 256}),
            ("gptj", {"n_embd": 64, "n_head": 4, "rotary_dim": 8}, {"n_embd": 32, "n_head": 2, "rotary_dim": 8}),
        ],
    )  # fmt: skip
    def test_widths(self, kind: str, fields: dict[str, Any], expected: dict[str, Any]) -> None:
        half = halve(config(kind, **fields)).to_dict()
        assert {name: half[name] for name in expected} == expected

    @pytest.mark.parametrize("name", TINY)
    def test_only_widths_change_and_what_is_saved_is_the_same(self, name: str) -> None:
        given = tiny(name)
        before = copy.deepcopy(given.to_dict())
        half = halve(given)
        assert given.to_dict() == before
        changed = {key for key, value in half.to_dict().items() if value != before.get(key)}
        widths = r".*(num_.*heads|n_heads?|hidden_size|n_embd|d_model|word_embed_proj_dim|intermediate_size|ffn_.*|n_inner|attn_config)"
        assert changed
        assert all(re.fullmatch(widths, key) for key in changed), changed
        again = type(half).from_dict(json.loads(half.to_json_string(use_diff=False)))
        shapes = [{key: tensor.shape for key, tensor in empty(one).state_dict().items()} for one in (half, again)]
        assert shapes[0] == shapes[1]

    def test_widths_of_single_layers(self) -> None:
        widths = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_attention_heads_per_layer": [4, 8]}
        given = config("laguna", num_hidden_layers=2, **widths)
        half = halve(given)
        assert half.num_attention_heads_per_layer == [2, 4]
        assert (half.num_attention_heads, half.num_key_value_heads) == (2, 1)

    @pytest.mark.parametrize(
        ("kind", "fields", "said"),
        [
            ("gpt2", {"n_head": 1, "n_embd": 8}, "0.5 of n_head 1 cannot be"),
            ("llama", {"num_attention_heads": 1, "num_key_value_heads": 1}, "0.5 of num_attention_heads 1 cannot be"),
            ("llama", {"intermediate_size": 1}, "0.5 of intermediate_size 1 is nothing"),
            ("mamba", {}, "neither heads nor MLP .state_size"),
            ("jamba", {}, "neither heads nor MLP .mamba_d_state"),
            ("recurrent_gemma", {}, "neither heads nor MLP .lru_width"),
            ("rwkv", {}, "no attention heads"),
            ("deepseek_v4", {}, "projected in groups"),
            ("diffllama", {}, "subtracts the second half of the heads"),
            ("lfm2", {}, "not as wide as its config says"),
        ],
    )  # fmt: skip
    def test_what_has_no_half_is_refused_with_the_reason(self, kind: str, fields: dict[str, Any], said: str) -> None:
        with pytest.raises(InputError, match=said):
            halve(config(kind, **fields))


class TestIndices:
    def test_queries_keys_and_values_of_gpt2_xl(self) -> None:
        found = checked(config("gpt2", n_layer=1, n_head=25, n_embd=1600))
        block = "transformer.h.0."
        qkv = ((0, 768), (1600, 2368), (3200, 3968))
        assert found[block + "attn.c_attn.weight"] == (((0, 768),), qkv)
        assert found[block + "attn.c_attn.bias"] == (qkv,)
        assert found[block + "attn.c_proj.weight"] == (((0, 768),), ((0, 768),))
        assert found[block + "mlp.c_fc.weight"] == (((0, 768),), ((0, 3072),))
        assert found["transformer.wte.weight"] == found["lm_head.weight"] == (((0, VOCABULARY),), ((0, 768),))
        assert found["transformer.wpe.weight"] == (((0, 1024),), ((0, 768),))

    @pytest.mark.parametrize(
        ("name", "tensor", "dimension", "expected"),
        [
            ("phi3", "model.layers.0.self_attn.qkv_proj.weight", 0, ((0, 16), (32, 40), (48, 56))),
            ("phi3", "model.layers.0.mlp.gate_up_proj.weight", 0, ((0, 24), (48, 72))),
            ("mixtral", "model.layers.0.mlp.experts.gate_up_proj", 1, ((0, 24), (48, 72))),
            ("mixtral", "model.layers.0.mlp.gate.weight", 0, ((0, 4),)),
            ("gpt_oss", "model.layers.0.mlp.experts.gate_up_proj", 2, ((0, 48),)),
            ("gpt_oss", "model.layers.0.self_attn.sinks", 0, ((0, 2),)),
            ("neox", "gpt_neox.layers.0.attention.query_key_value.weight", 0, ((0, 48),)),
            ("gpt_bigcode", "transformer.h.0.attn.c_attn.weight", 0, ((0, 16), (32, 48))),
            ("falcon, grouped", "transformer.h.0.self_attention.query_key_value.weight", 0, ((0, 32),)),
            ("falcon, multi-query", "transformer.h.0.self_attention.query_key_value.weight", 0, ((0, 16), (32, 48))),
            ("falcon, one group", "transformer.h.0.self_attention.query_key_value.weight", 0, ((0, 16), (32, 48))),
            ("llama, multi-query", "model.layers.0.self_attn.k_proj.weight", 0, ((0, 8),)),
            ("llama, MLP of 3 x hidden", "model.layers.0.mlp.gate_proj.weight", 0, ((0, 48),)),
            ("gpt2, MLP of 3 x hidden", "transformer.h.0.mlp.c_fc.weight", 1, ((0, 48),)),
            ("gpt2, MLP of 3 x hidden", "transformer.h.0.attn.c_attn.weight", 1, ((0, 16), (32, 48), (64, 80))),
            ("qwen3", "model.layers.0.self_attn.q_norm.weight", 0, ((0, 12),)),
            ("qwen3_next", "model.layers.0.linear_attn.conv1d.weight", 0, ((0, 8), (16, 24), (32, 44))),
            ("dbrx", "transformer.blocks.0.ffn.experts.mlp.w1", 0, ((0, 8), (16, 24), (32, 40), (48, 56))),
            ("deepseek_v3", "model.layers.0.self_attn.kv_b_proj.weight", 0, ((0, 32),)),
            # heads 0 and 1 of 8 are in the first of four blocks; each block has queries, values, keys of 8 numbers
            ("codegen", "transformer.h.0.attn.qkv_proj.weight", 0,
             tuple((start, start + 4) for start in (0, 8, 16, 4, 12, 20, 24, 32, 40, 28, 36, 44))),
        ],
    )  # fmt: skip
    def test_fused_tensors(self, name: str, tensor: str, dimension: int, expected: Runs) -> None:
        assert checked(tiny(name))[tensor][dimension] == expected

    def test_a_tensor_of_unknown_parts_is_refused_by_name(self) -> None:
        class Odd(type(empty(tiny("llama")))):  # type: ignore[misc]
            def __init__(self, given: Any) -> None:
                super().__init__(given)
                self.model.layers[0].odd = nn.Linear(2 * given.hidden_size + given.intermediate_size, 3)

        with torch.device("meta"):
            source, target = Odd(tiny("llama")), Odd(halve(tiny("llama")))
        with pytest.raises(InputError, match=r"model\.layers\.0\.odd\.weight.*2 x hidden \+ 1 x intermediate_size"):
            kept_ranges(source, target)

    def test_models_that_do_not_belong_together_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"only one of the two|different kinds"):
            kept_ranges(empty(tiny("llama")), empty(halve(tiny("gpt2"))))


@st.composite
def llamas(draw: st.DrawFn) -> dict[str, Any]:
    pairs, group, size = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.sampled_from([2, 4, 6, 8]))
    heads = pairs * group if pairs * group > 1 else 2
    return {
        "num_hidden_layers": 1, "num_attention_heads": heads, "num_key_value_heads": pairs, "hidden_size": heads * size,
        "intermediate_size": draw(st.integers(2, 70)), "max_position_embeddings": 16,
    }  # fmt: skip


class TestAnyWidths:
    @pytest.mark.long
    @settings(deadline=None, max_examples=25)
    @given(kind=st.sampled_from(["llama", "phi3", "mixtral", "starcoder2"]), fields=llamas())
    def test_grouped_queries(self, kind: str, fields: dict[str, Any]) -> None:
        given_, half = config(kind, **fields), halve(config(kind, **fields))
        checked(given_)
        if fields["num_key_value_heads"] > 1:
            group = given_.num_attention_heads // given_.num_key_value_heads
            assert half.num_attention_heads == group * half.num_key_value_heads
        assert half.num_key_value_heads == max(1, fields["num_key_value_heads"] // 2)

    @settings(deadline=None, max_examples=15)
    @given(heads=st.integers(2, 9), size=st.sampled_from([2, 3, 8]), inner=st.none() | st.integers(2, 90))
    def test_heads_that_make_the_hidden_size(self, heads: int, size: int, inner: int | None) -> None:
        given_ = config("gpt2", n_layer=1, n_head=heads, n_embd=heads * size, n_inner=inner)
        found = checked(given_)
        qkv = [place for start, end in found["transformer.h.0.attn.c_attn.bias"][0] for place in range(start, end)]
        kept = range(heads // 2 * size)
        assert qkv == [part * heads * size + place for part in range(3) for place in kept]


class Narrowed(nn.Module):
    """A norm over the hidden states of which only some are there: that of the half-width model, the rest zero."""

    def __init__(self, norm: nn.Module, size: int, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.size, self.kept = norm, size, kept

    def forward(self, values: Tensor, *rest: Any) -> Tensor:
        if values.shape[-1] != self.size:
            return self.norm(values, *rest)
        return torch.zeros_like(values).index_copy(-1, self.kept, self.norm(values.index_select(-1, self.kept), *rest))


def both(given: Any) -> tuple[PreTrainedModel, PreTrainedModel, dict[str, tuple[Runs, ...]]]:
    """A tiny model, no parameter of which is as initialised (norms are ones then, biases zeros), its half, the ranges."""
    torch.manual_seed(0)
    full, half = (AutoModelForCausalLM.from_config(one, dtype=torch.float32).eval() for one in (given, halve(given)))
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    ranges = kept_ranges(empty(given), empty(halve(given)))
    half.load_state_dict({name: taken(tensor, ranges[name]) for name, tensor in full.state_dict().items()})
    return full, half, ranges


def switched_off(full: PreTrainedModel, half: PreTrainedModel, ranges: dict[str, tuple[Runs, ...]]) -> None:
    """Make a full model compute what the half one has to: its own forward, all weights but the kept ones zero.

    The full model's code decides what a row of a fused tensor is, so a slice that mixes up parts gives other logits.
    What is a function of the width itself (means over hidden states, a scale of sqrt(hidden)) is that of the half.
    """
    sizes = {name: tensor.shape for name, tensor in full.state_dict().items()}
    with torch.no_grad():
        for name, tensor in full.state_dict().items():
            mask = torch.ones_like(tensor)
            for dimension, kept in enumerate(ranges[name]):
                line = torch.zeros(tensor.shape[dimension])
                line[indices(kept)] = 1
                mask = mask * line.view([-1 if axis == dimension else 1 for axis in range(tensor.ndim)])
            tensor.mul_(mask)
    for name, module in list(full.named_modules()):
        other = half.get_submodule(name)
        for key, value in vars(module).items():
            if isinstance(value, float):
                setattr(module, key, vars(other)[key])
        for key, buffer in module.named_buffers(recurse=False):
            if key in module._non_persistent_buffers_set and buffer.ndim == 0:
                buffer.copy_(other.get_buffer(key))
        weight, hidden = ranges.get(name + ".weight"), full.config.hidden_size
        leaf = next(module.children(), None) is None
        if leaf and "Norm" in type(module).__name__ and (weight is None or len(weight) == 1):
            size = hidden if weight is None else sizes[name + ".weight"][0]
            kept = torch.arange(half.config.hidden_size) if weight is None else indices(weight[0])
            if len(kept) < size:
                full.set_submodule(name, Narrowed(other, size, kept))


def slopes_of_the_half(kind: str, monkeypatch: pytest.MonkeyPatch, full: PreTrainedModel) -> None:
    """The slope of a head follows from the number of heads, so the kept ones get those of the half-width model."""
    if kind == "bloom":
        from transformers.models.bloom import modeling_bloom

        given_ = modeling_bloom._get_alibi_slopes
        monkeypatch.setattr(
            modeling_bloom, "_get_alibi_slopes", lambda heads, device: given_(min(heads, 2), device).repeat(heads // 2)
        )
    if kind == "mpt":
        made = full.transformer.build_mpt_alibi_tensor
        full.transformer.build_mpt_alibi_tensor = lambda heads, *rest, **more: torch.cat(
            [made(heads // 2, *rest, **more)] * 2
        )


def difference(given: Any, monkeypatch: pytest.MonkeyPatch) -> float:
    """How far the logits of the half-width model are from those of the full one with the rest switched off."""
    full, half, ranges = both(given)
    switched_off(full, half, ranges)
    tokens_BT = torch.randint(3, VOCABULARY, (2, 10), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = half(tokens_BT, use_cache=False).logits
        slopes_of_the_half(given.model_type, monkeypatch, full)
        found = full(tokens_BT, use_cache=False).logits
    return float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", TINY)
def test_it_is_the_full_model_with_the_rest_switched_off(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert difference(tiny(name), monkeypatch) < 1e-5


def test_heads_attend_as_they_did() -> None:
    """Another way to see it, for one block: given the same input, a kept head's output is the head's in the full model."""
    given = tiny("phi3")
    full, half, _ = both(given)
    input_BTD = torch.randn(1, 6, 32) * (torch.arange(32) < 16)
    outputs = []
    for model, hidden in ((full, input_BTD), (half, input_BTD[..., :16])):
        attention = model.model.layers[0].self_attn
        attention.o_proj = nn.Identity()
        angles = model.model.rotary_emb(hidden, torch.arange(6)[None])
        mask = torch.full((6, 6), -math.inf).triu(1)[None, None]
        outputs.append(attention(hidden, position_embeddings=angles, attention_mask=mask)[0])
    assert torch.allclose(outputs[0][..., :16], outputs[1], atol=1e-6)


@pytest.mark.long
def test_every_family_as_published_is_halved_or_refused() -> None:
    """The first blocks of the default config of each of transformers' decoders, most of them those of a released model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    from inheritune.arch import check_decoder, layer_count
    from inheritune.inheritance import TargetSpec, target_config

    halved = 0
    for kind in CAUSAL:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                given = CONFIG_MAPPING[kind]()
                check_decoder(given)
                given = target_config(given, TargetSpec(tuple(range(min(4, layer_count(given))))))
                source = empty(given)
            except Exception:
                continue  # no decoder, or one whose defaults do not make a model
            try:
                target = empty(halve(given))
                found = kept_ranges(source, target)
            except InputError:
                continue
        for name, tensor in target.state_dict().items():
            assert [sum(end - start for start, end in ranges) for ranges in found[name]] == list(tensor.shape)
        halved += 1
    assert halved >= 100


class TestFirstUnits:
    def test_numbers_and_fractions(self) -> None:
        nine = config(
            "llama", **(_LLAMA | {"hidden_size": 36, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 4})
        )
        assert first_units(nine, {}) == Selection()
        assert first_units(nine, {"heads": 6, "mlp": 20, "hidden": 12}) == Selection(
            heads=tuple(range(6)), neurons=tuple(range(20)), hidden=tuple(range(12))
        )
        assert first_units(nine, {"heads": 4}).heads == (0, 1, 3, 4)  # no whole groups: two of each of two
        assert first_units(nine, {"heads": 1}).heads == (0,)
        assert first_units(nine, {"heads": 2 / 3}).heads == tuple(range(6))

    @pytest.mark.parametrize(
        ("kind", "numbers", "said"),
        [
            ("llama", {"heads": 5}, "num_attention_heads"),
            ("llama", {"mlp": 49}, "49 of intermediate_size asked for, which is 48"),
            (
                "gpt2",
                {"heads": 2},
                "its heads are slices of its hidden size, 8 channels each; with 2 heads give hidden: 16",
            ),
            ("gpt2", {"hidden": 16}, "with 4 heads give hidden: 32"),
            ("gpt2", {"mlp": 5}, "its config gives no such width .GPT-2: n_inner is null"),
            (
                "llama, 9 heads of 3 groups",
                {"heads": 7, "hidden": 28},
                "of which 3 each share .* legal are 1, 2, 3, 4, 6, 9",
            ),
            ("deepseek_v3", {"mlp": 8}, "mlp: 8, and it has .* give a fraction"),
        ],
    )
    def test_numbers_that_cannot_be_name_legal_ones(self, kind: str, numbers: Any, said: str) -> None:
        name, fields = TINY[kind]
        with pytest.raises(InputError, match=said):
            first_units(config(name, **fields), numbers)
