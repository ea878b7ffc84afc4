"""What the table of families says, against numbers worked out here."""

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from inheritune.arch.families import (
    Rescale,
    compensated_attributes,
    constant_inits,
    kv_sources,
    packed_dimension,
    rescales,
)


def config(kind: str, **fields: Any) -> Any:
    return CONFIG_MAPPING[kind](**fields)


def test_scores_divided_by_the_number_are_made_up_for_in_the_queries() -> None:
    scaled = config("gpt2", n_layer=6, n_embd=8, scale_attn_by_inverse_layer_idx=True)
    assert rescales(scaled, 3, 3) == []
    assert rescales(scaled, 5, 1) == [
        Rescale("attn.c_attn.weight", 1, 0, 8, 2 / 6),
        Rescale("attn.c_attn.bias", 0, 0, 8, 2 / 6),
    ]
    assert "scaling" in compensated_attributes(scaled)
    plain = config("gpt2", n_layer=6)
    assert rescales(plain, 5, 1) == []
    assert "scaling" not in compensated_attributes(plain)


def test_a_bias_that_only_the_last_block_has_was_zero() -> None:
    japanese = config("gpt_neox_japanese", num_hidden_layers=4)
    assert constant_inits(japanese, 1, 1, 2) == {"attention.dense_bias": 0.0}
    assert constant_inits(japanese, 0, 0, 2) == {}
    assert constant_inits(japanese, 3, 1, 2) == {}
    assert constant_inits(config("gpt_neox", num_hidden_layers=4), 1, 1, 2) == {}


def test_lenders_of_keys_and_values_are_the_last_of_their_kind_before_the_borrowers() -> None:
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    sharing = config("gemma4_text", num_hidden_layers=5, layer_types=types, num_kv_shared_layers=2)
    assert kv_sources(sharing) == [None, None, None, 1, 2]
    assert kv_sources(config("gemma4_text", num_hidden_layers=5, layer_types=types)) == [None] * 5
    assert kv_sources(config("llama", num_hidden_layers=3)) == [None] * 3


def test_lenders_of_chosen_tokens_are_the_nearest() -> None:
    kinds = ["full", "shared", "full", "full", "shared", "shared"]
    assert kv_sources(config("hy_v4", num_hidden_layers=6, indexer_types=kinds)) == [None, 0, None, None, 3, 3]


@pytest.mark.parametrize(
    ("name", "dimension"),
    [
        ("model.embed_tokens_per_layer.weight", 1),
        ("model.per_layer_model_projection.weight", 0),
        ("model.embed_tokens.weight", None),
    ],
)
def test_tensors_with_a_slice_a_block(name: str, dimension: int | None) -> None:
    assert packed_dimension(name) == dimension
