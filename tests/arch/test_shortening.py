"""The config of fewer layers, field by field, against values written out here."""

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from inheritune.arch import layer_count, shorten
from inheritune.errors import InputError


def config(kind: str, **fields: Any) -> Any:
    return CONFIG_MAPPING[kind](**fields)


# Model type, its fields, the layers kept, and what the short config's fields must be.
CASES: list[tuple[str, dict[str, Any], list[int], dict[str, Any]]] = [
    ("gpt2", {"n_layer": 6}, [0, 1], {"n_layer": 2, "num_hidden_layers": 2}),
    ("gpt_neox", {"num_hidden_layers": 6}, [5], {"num_hidden_layers": 1}),
    (
        "gemma3_text",
        {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
        [0, 2, 3],
        {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    ),
    (
        "qwen2",
        {"num_hidden_layers": 5, "use_sliding_window": True, "max_window_layers": 3},
        [0, 2, 4],
        {"max_window_layers": 2, "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
    ),
    ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 4}, [1, 3], {"no_rope_layers": [1, 0]}),
    ("qwen3_moe", {"num_hidden_layers": 5, "mlp_only_layers": [0, 3]}, [1, 3, 4], {"mlp_only_layers": [1]}),
    ("qwen3_moe", {"num_hidden_layers": 2, "mlp_only_layers": [0, 1]}, [1], {"mlp_only_layers": [0]}),
    ("deepseek_v3", {"num_hidden_layers": 6, "first_k_dense_replace": 3}, [0, 1], {"first_k_dense_replace": 2}),
    ("deepseek_v3", {"num_hidden_layers": 6, "first_k_dense_replace": 3}, [2, 3, 5], {"first_k_dense_replace": 1}),
    ("bamba", {"num_hidden_layers": 6, "attn_layer_indices": [1, 4]}, [0, 1, 2], {"attn_layer_indices": [1]}),
    ("bamba", {"num_hidden_layers": 6, "attn_layer_indices": [1, 4]}, [3, 4], {"attn_layer_indices": [1]}),
    (
        "llama4_text",
        {"num_hidden_layers": 4, "moe_layers": [1, 3]},
        [2, 3],
        {"moe_layers": [1], "no_rope_layers": [1, 0], "layer_types": ["chunked_attention", "full_attention"]},
    ),
    (
        "gpt_neo",
        {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
        [0, 1, 2],
        {
            "num_layers": 3,
            "attention_layers": ["global", "local", "global"],
            "attention_types": [[["global"], 1], [["local"], 1], [["global"], 1]],
        },
    ),
    (
        "gemma3n_text",
        {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "intermediate_size": [8, 9, 10, 11],
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
        },
        [0, 1, 2],
        {"num_kv_shared_layers": 1, "intermediate_size": [8, 9, 10], "activation_sparsity_pattern": [0.95, 0.95, 0.0]},
    ),
]


_EXPERTS_EVERY_THIRD = {"expert_layer_period": 3, "expert_layer_offset": 1}
CASES += [
    (
        "jamba",
        {"num_hidden_layers": 6, "attn_layer_period": 3, "attn_layer_offset": 0, **_EXPERTS_EVERY_THIRD},
        [0, 2, 4],
        {"attn_layer_period": 3, "attn_layer_offset": 0, "expert_layer_period": 3, "expert_layer_offset": 2},
    ),
    (
        "qwen3_moe",
        {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
        [1, 3, 4, 5],
        {"decoder_sparse_step": 1, "mlp_only_layers": [1, 2]},
    ),
    (
        "qwen3_moe",
        {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
        [0, 1, 2],
        {"decoder_sparse_step": 2, "mlp_only_layers": []},
    ),
    (
        "ernie4_5_moe",
        {"num_hidden_layers": 6, "moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 2},
        [0, 3, 5],
        {"moe_layer_start_index": 1, "moe_layer_end_index": 1, "moe_layer_interval": 1},
    ),
    (
        "recurrent_gemma",
        {"num_hidden_layers": 6, "block_types": ["recurrent", "recurrent", "attention"]},
        [1, 2, 5],
        {"block_types": ["recurrent", "attention", "attention"]},
    ),
    (
        "afmoe",
        {"num_hidden_layers": 8, "global_attn_every_n_layers": 4},
        [0, 3, 6, 7],
        {
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "global_attn_every_n_layers": 2,
        },
    ),
    ("minicpm3", {"num_hidden_layers": 8, "scale_depth": 1.4}, [1, 3], {"scale_depth": 0.7}),
    ("rwkv", {"num_hidden_layers": 8, "rescale_every": 6}, [0, 1], {"rescale_every": 0}),
    ("longcat_flash", {"num_layers": 6}, [0, 1, 4], {"num_layers": 3, "num_hidden_layers": 6}),
    ("xlstm", {"num_hidden_layers": 6}, [0, 1], {"num_hidden_layers": 2, "num_blocks": 2}),
    ("deepseek_v3", {"num_hidden_layers": 6, "num_nextn_predict_layers": 1}, [0], {"num_nextn_predict_layers": 0}),
    ("lfm2_moe", {"num_hidden_layers": 4, "num_dense_layers": 2, "layer_types": ["conv"] * 4}, [1, 2], {"num_dense_layers": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fields", "kept", "expected"), CASES)
def test_fields_fit_the_layers_kept(
    kind: str, fields: dict[str, Any], kept: list[int], expected: dict[str, Any]
) -> None:
    long = config(kind, **fields)
    before = long.to_dict()
    short = shorten(long, kept)
    assert type(short) is type(long)
    assert short.num_hidden_layers == len(kept) * (2 if kind == "longcat_flash" else 1)  # two attentions a block
    assert {name: getattr(short, name) for name in expected} == expected
    assert long.to_dict() == before, "the reference's own config has changed"
    # what is stored reads back as the same
    assert {name: getattr(type(short).from_dict(short.to_dict()), name) for name in expected} == expected


def test_overrides_of_single_layers_move_with_them() -> None:
    layer_types = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    long = config("gemma4_text", num_hidden_layers=6, layer_types=layer_types, global_head_dim=512, head_dim=256)
    assert long.to_dict()["per_layer_config"] == {"2": {"head_dim": 512}, "5": {"head_dim": 512}}
    assert shorten(long, [0, 1, 2]).to_dict()["per_layer_config"] == {"2": {"head_dim": 512}}
    assert shorten(long, [4, 5]).to_dict()["per_layer_config"] == {"1": {"head_dim": 512}}


def test_lists_that_happen_to_be_as_long_stay() -> None:
    long = config("llama", num_hidden_layers=2, eos_token_id=[3, 4], architectures=["LlamaForCausalLM", "Other"])
    short = shorten(long, [0])
    assert short.eos_token_id == [3, 4]
    assert short.architectures == ["LlamaForCausalLM", "Other"]


def test_all_layers_leave_the_config_as_it_was() -> None:
    for kind, fields, _, _ in CASES:
        long = config(kind, **fields)
        assert shorten(long, list(range(layer_count(long)))).to_dict() == long.to_dict()


def test_overrides_of_single_layers_are_found_however_their_numbers_are_written() -> None:
    """With ten layers and more transformers writes 05."""
    long = config("gemma4_text", num_hidden_layers=12)
    assert "05" in long.to_dict()["per_layer_config"]
    assert shorten(long, [0, 1, 5]).to_dict()["per_layer_config"] == {"2": {"head_dim": 512}}


@pytest.mark.parametrize(
    ("kind", "fields", "kept", "said"),
    [
        (
            "jamba",
            {"num_hidden_layers": 6, "attn_layer_period": 2, "attn_layer_offset": 0},
            [0, 2, 5],
            "no attn_layer_period and attn_layer_offset can express",
        ),
        (
            "ernie4_5_moe",
            {"num_hidden_layers": 6, "moe_layer_start_index": 1, "moe_layer_end_index": 4, "moe_layer_interval": 2},
            [1, 2, 3, 5],
            "no moe_layer_start_index, moe_layer_end_index, moe_layer_interval can express",
        ),
        (
            "gemma4_text",
            {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
            [0, 1, 2],
            "transformers makes layer_types .* choose blocks whose last",
        ),
    ],
)
def test_what_no_config_can_say_is_refused(kind: str, fields: dict[str, Any], kept: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said):
        shorten(config(kind, **fields), kept)


def test_the_way_of_computing_attention_stays() -> None:
    long = config("llama", num_hidden_layers=3)
    long._attn_implementation = "eager"
    assert shorten(long, [0])._attn_implementation == "eager"
