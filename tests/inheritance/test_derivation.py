"""`inherit` beyond prefixes: other selections, refusals, what comes along, what is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_families import DEPTH, FAMILIES, build, logits_of, logits_through, some_tokens
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from inheritune.errors import InputError
from inheritune.inheritance import derive, inherit, inherit_settings

# What is asked for, and the blocks that it means in a model of 4.
SELECTIONS: list[tuple[Any, Any, list[int]]] = [
    (2, "last", [2, 3]),
    (2, "middle", [1, 2]),
    (3, "ends", [0, 1, 3]),  # a fifth of 3 is none, and one block is the least
    (0.25, "last", [3]),
    ([0, 2, 3], "first", [0, 2, 3]),
    ("[1, 3]", "first", [1, 3]),
]
LINEAR = {"num_value_heads": 4, "num_key_heads": 4, "key_head_dim": 8, "value_head_dim": 8}
# Plain blocks, and three ways in which a config says that layers differ.
MOVABLE = ["llama", "gemma2", "gemma3_text", "qwen2", "smollm3"]


@pytest.mark.parametrize("kind", MOVABLE)
@pytest.mark.parametrize(("layers", "choose", "kept"), SELECTIONS)
def test_every_block_is_the_chosen_one(kind: str, layers: Any, choose: Any, kept: list[int]) -> None:
    reference = build(kind)
    target = inherit(reference, layers, choose)
    blocks = FAMILIES[kind].blocks
    source = reference.state_dict()
    expected = {name: tensor for name, tensor in source.items() if not name.startswith(f"{blocks}.")}
    for place, index in enumerate(kept):
        own = f"{blocks}.{index}."
        expected |= {
            f"{blocks}.{place}.{name.removeprefix(own)}": tensor
            for name, tensor in source.items()
            if name.startswith(own)
        }
    found = target.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    torch.testing.assert_close(
        logits_of(target, some_tokens()),
        logits_through(reference, FAMILIES[kind].blocks, kept, some_tokens()),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize(("kind", "name"), [("gemma3_text", "layer_types"), ("smollm3", "no_rope_layers")])
def test_fields_of_the_chosen_layers_come_along(kind: str, name: str) -> None:
    reference = build(kind)
    values = getattr(reference.config, name)
    assert len(set(values)) == 2
    assert getattr(inherit(reference, [1, 3]).config, name) == [values[1], values[3]]


@pytest.mark.parametrize("layers", [[0, 1], [1, 2], [0, 2], [3], [0, 1, 2, 3]])
def test_scores_scaled_by_the_place_are_folded_into_the_queries(layers: list[int]) -> None:
    """GPT-2's attention divides by the block's number, counted from 1; the paper's models do so."""
    reference = build("gpt2", scale_attn_by_inverse_layer_idx=True)
    target = inherit(reference, layers)
    torch.testing.assert_close(
        logits_of(target, some_tokens()),
        logits_through(reference, FAMILIES["gpt2"].blocks, layers, some_tokens()),
        rtol=0,
        atol=1e-5,
    )
    source, found = (model.transformer.h for model in (reference, target))
    for place, index in enumerate(layers):
        factor = (place + 1) / (index + 1)
        weight, own = source[index].attn.c_attn.weight, found[place].attn.c_attn.weight
        torch.testing.assert_close(own[:, :32], weight[:, :32] * factor)
        assert torch.equal(own[:, 32:], weight[:, 32:])


def test_constants_that_depend_on_the_place_are_noticed() -> None:
    """Nothing in diffllama's config says that a block's lambda follows from its number: only the blocks show it."""
    fields = FAMILIES["llama"].fields
    with pytest.raises(InputError, match=r"block 3: would change at place 1: self_attn\.lambda_init"):
        inherit(build("diffllama", **fields), [0, 3])
    inherit(build("diffllama", **fields), [0, 1])


def test_which_blocks_are_sparse_is_said_anew_in_the_config() -> None:
    """With every second layer sparse, block 1 has experts and place 0 would have none by the old config."""
    fields = FAMILIES["qwen3_moe"].fields | {"mlp_only_layers": [], "decoder_sparse_step": 2}
    reference = build("qwen3_moe", **fields)
    for layers in ([1, 2], [0, 3], [1, 3]):
        expected = logits_through(reference, FAMILIES["qwen3_moe"].blocks, layers, some_tokens())
        torch.testing.assert_close(logits_of(inherit(reference, layers), some_tokens()), expected, rtol=0, atol=1e-5)


def test_listed_layers_are_renumbered() -> None:
    reference = build("qwen3_moe")
    assert reference.config.mlp_only_layers == [0, 2]
    target = inherit(reference, [1, 2, 3])
    assert target.config.mlp_only_layers == [1]
    expected = logits_through(reference, FAMILIES["qwen3_moe"].blocks, [1, 2, 3], some_tokens())
    torch.testing.assert_close(logits_of(target, some_tokens()), expected, rtol=0, atol=1e-5)


def test_part_of_a_hybrid_without_attention_is_refused() -> None:
    """The library asks an attention block for the length of the cached sequence; none is there to answer."""
    fields = FAMILIES["llama"].fields | {"layer_types": ["conv", "full_attention"] * 2}
    reference = build("lfm2", **fields)
    for layers in (1, [0, 2]):
        with pytest.raises(InputError, match=r"lfm2.* has attention.*; choose"):
            inherit(reference, layers)
    target = inherit(reference, [2, 3])
    prompt_BT = some_tokens(length=4)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    options["attention_mask"] = torch.ones_like(prompt_BT)
    assert torch.equal(
        target.generate(prompt_BT, use_cache=True, **options), target.generate(prompt_BT, use_cache=False, **options)
    )


def test_adapters_of_a_place_keep_it() -> None:
    """zamba2 repeats one block and tells its places apart by a table that no plain attribute shows."""
    fields = FAMILIES["mamba"].fields | {
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "mamba_ngroups": 1,
        "layers_block_type": ["mamba", "hybrid"] * 2,
    }
    fields.pop("state_size")
    with pytest.raises(InputError, match=r"hybrid_layer_ids is \[1, 3\].*choose: first"):
        inherit(build("zamba2", **fields), [2, 3])


def test_what_transformers_cannot_build_is_an_input_error() -> None:
    """olmo_hybrid's own config wants a layer of either kind."""
    linear = {f"linear_{name}": size for name, size in LINEAR.items()}
    fields = FAMILIES["llama"].fields | linear | {"layer_types": ["linear_attention", "full_attention"] * 2}
    reference = build("olmo_hybrid", **fields)
    with pytest.raises(InputError, match=r"olmo_hybrid, blocks \[1, 3\].*at least one 'linear_attention'"):
        inherit(reference, [1, 3])
    assert inherit(reference, [1, 2]).config.layer_types == ["full_attention", "linear_attention"]


def test_a_block_that_borrows_keys_and_values_needs_its_lender() -> None:
    """gemma3n's last layers take keys and values from earlier ones, which keep them for that."""
    fields = FAMILIES["gemma2"].fields | {
        "intermediate_size": [48] * DEPTH,
        "vocab_size_per_layer_input": 67,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "laurel_rank": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "activation_sparsity_pattern": [0.0] * DEPTH,
    }
    fields.pop("query_pre_attn_scalar")
    with pytest.raises(InputError, match=r"block 2: uses what block 0 has computed, which is not among the blocks"):
        inherit(build("gemma3n_text", **fields), [2, 3])
    assert inherit(build("gemma3n_text", **fields), 3).config.num_kv_shared_layers == 1


def test_encoders_are_refused() -> None:
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=67, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2))
    with pytest.raises(InputError, match="encoder-decoder"):
        derive(t5, inherit_settings(1))
    sizes = {"vocab_size": 67, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    bert = BertLMHeadModel(BertConfig(**sizes, num_attention_heads=2))
    with pytest.raises(InputError, match="bert is an encoder"):
        derive(bert, inherit_settings(1))
    decoder = BertLMHeadModel(BertConfig(**sizes, num_attention_heads=2, is_decoder=True))
    assert derive(decoder, inherit_settings(1))[0].config.num_hidden_layers == 1


def test_plan_says_what_was_taken_and_what_was_left() -> None:
    reference = build("llama")
    _, plan = derive(reference, inherit_settings([0, 3]))
    assert (plan.kept, plan.total) == ((0, 3), DEPTH)
    assert {line.source for line in plan.lines} | set(plan.dropped) == set(reference.state_dict())
    assert all(name.startswith(("model.layers.1.", "model.layers.2.")) for name in plan.dropped)
    assert ("model.layers.1.mlp.up_proj.weight", "model.layers.3.mlp.up_proj.weight", (48, 32)) in {
        (line.target, line.source, line.shape) for line in plan.lines
    }


def test_half_is_the_default_and_dtype_stays() -> None:
    target = inherit(build("llama").to(torch.bfloat16))
    assert target.config.num_hidden_layers == 2
    assert {tensor.dtype for tensor in target.parameters()} == {torch.bfloat16}


def test_generation_settings_come_along_as_a_copy() -> None:
    reference = build("llama")
    reference.generation_config.max_new_tokens = 7
    target = inherit(reference, 1)
    assert target.generation_config.max_new_tokens == 7
    assert target.generation_config is not reference.generation_config


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (0, "at least one block"),
        (-1, "at least one block"),
        (1.5, r"\(0, 1\]"),
        ("many", "not a block"),
        ([], "empty"),
        ([2, 1], "rising"),
        ([1, 1], "rising"),
        (True, "legal are"),
        (5, "5 blocks asked for, the reference has 4"),
        ([0, 4], "block 4 is not there: the reference has 4"),
    ],
)
def test_wishes_that_cannot_be_are_refused(layers: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        inherit(build("llama"), layers)
    assert "layers" in str(caught.value)
    assert "\n" not in str(caught.value)


class TestWriting:
    def test_from_folder_to_folder_with_tokenizer(self, reference_folder: Path, tmp_path: Path) -> None:
        target = inherit(reference_folder, 3, "last", out=tmp_path / "small")
        names = {file.name for file in (tmp_path / "small").iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "small")
        assert loaded.config.num_hidden_layers == 3
        for name, tensor in target.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        original = (reference_folder / "tokenizer.json").read_text(encoding="utf-8")
        assert json.loads((tmp_path / "small" / "tokenizer.json").read_text(encoding="utf-8")) == json.loads(original)

    def test_what_stands_there_is_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / "small").mkdir()
        (tmp_path / "small" / "thesis.txt").write_text("mine", encoding="utf-8")
        with pytest.raises(InputError, match=r"small: exists already"):
            inherit(build("llama"), 1, out=tmp_path / "small")
        assert [file.name for file in (tmp_path / "small").iterdir()] == ["thesis.txt"]

    def test_nothing_is_written_for_a_wish_that_cannot_be(self, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            inherit(build("llama"), 9, out=tmp_path / "small")
        assert list(tmp_path.iterdir()) == []

    def test_a_model_in_memory_needs_no_tokenizer(self, tmp_path: Path) -> None:
        target: PreTrainedModel = inherit(build("gpt2"), 1, out=tmp_path / "deep" / "small")
        assert target.config.n_layer == 1
        assert (tmp_path / "deep" / "small" / "model.safetensors").is_file()
