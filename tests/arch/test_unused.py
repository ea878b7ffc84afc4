"""What is in a checkpoint and no model takes: a line that names it, in every format, whether it is loaded or inherited."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from inheritune.arch import load_model
from inheritune.errors import InputError
from inheritune.inheritance import inherit
from inheritune.recipe import Reference

Tensors = dict[str, torch.Tensor]


def llama() -> PreTrainedModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def single(model: PreTrainedModel, extra: Tensors, folder: Path) -> Path:
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(load_file(file) | extra, file, {"format": "pt"})
    return folder


def sharded(model: PreTrainedModel, extra: Tensors, folder: Path) -> Path:
    model.save_pretrained(folder, max_shard_size="20KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    holder = sorted(set(index["weight_map"].values()))[-1]
    save_file(load_file(folder / holder) | extra, folder / holder, {"format": "pt"})
    index["weight_map"] |= dict.fromkeys(extra, holder)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def pickled(model: PreTrainedModel, extra: Tensors, folder: Path) -> Path:
    model.save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors") | extra, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


FORMATS = [single, sharded, pickled]
WAYS: list[Callable[[Path], PreTrainedModel]] = [
    lambda folder: load_model(Reference(path=str(folder))),
    lambda folder: inherit(folder, "all"),
    lambda folder: inherit(folder, 1),
]


def refused(folder: Path) -> str:
    said = set()
    for way in WAYS:
        with pytest.raises(InputError) as caught:
            way(folder)
        said.add(str(caught.value))
    assert len({line.split(": ")[1] for line in said}) == 1, said
    assert not any("\n" in line for line in said)
    return said.pop()


@pytest.mark.parametrize("store", FORMATS)
@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.self_attn.q_proj.bias", "model.layers.0.self_attn.q_norm.weight", "model.embed_norm.weight",
        "model.layers.2.self_attn.sinks", "lm_head.bias", "model.layers.0.mlp.up_proj.lora_A.weight", "scale",
        "model.layers.0.mlp.up_proj.weight_scale",
    ],
)  # fmt: skip
def test_a_tensor_that_nothing_takes_is_refused(tmp_path: Path, store: Callable[..., Path], name: str) -> None:
    line = refused(store(llama(), {name: torch.ones(4)}, tmp_path / "stored"))
    assert line.startswith(f"{tmp_path / 'stored'}: {name}: ")
    assert line.endswith("mend the config, or get a checkpoint whose weights fit it")


@pytest.mark.parametrize("store", FORMATS)
def test_what_is_known_to_do_no_harm_may_be_left_over(tmp_path: Path, store: Callable[..., Path]) -> None:
    model = llama()
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
        "model.rotary_emb.inv_freq": torch.ones(4),
        "v_head.summary.weight": torch.ones(1, 32),
        "mtp.fc.weight": torch.ones(2, 2),
        "lm_head.weight": model.state_dict()["lm_head.weight"].clone(),
    }
    folder = store(model, extra, tmp_path / "stored")
    for way in WAYS[:2]:
        found = way(folder).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def test_masks_are_no_biases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=16))
    extra = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 16, 16).tril(),
        "transformer.h.0.attn.masked_bias": -torch.ones(()),
    }
    for way in WAYS:
        way(single(model, extra, tmp_path / "masks"))


@pytest.mark.parametrize("store", FORMATS)
def test_blocks_beyond_the_config_s(tmp_path: Path, store: Callable[..., Path]) -> None:
    folder = store(llama(), {}, tmp_path / "stored")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 2}))
    for way in WAYS:
        with pytest.raises(InputError, match=r"model\.layers\.2\."):
            way(folder)


def test_layers_that_guess_further_tokens(tmp_path: Path) -> None:
    """DeepSeek-V3 stores them behind its blocks."""
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=64, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, n_group=2, topk_group=1,
        num_experts_per_tok=2, first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4,
        qk_nope_head_dim=4, v_head_dim=8, num_nextn_predict_layers=1,
    )  # fmt: skip
    model = DeepseekV3ForCausalLM(config)
    extra = {"model.layers.2.eh_proj.weight": torch.ones(2, 2), "model.layers.2.shared_head.norm.weight": torch.ones(2)}
    folder = single(model, extra, tmp_path / "stored")
    for way in WAYS:
        way(folder)
    assert "model.layers.1.eh_proj.weight" in refused(
        single(model, {"model.layers.1.eh_proj.weight": torch.ones(2, 2)}, tmp_path / "within")
    )


def test_of_a_composite_only_what_sees_and_hears_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8,
    }  # fmt: skip
    eyes = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
        "patch_size": 4,
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text, vision_config=eyes, mm_tokens_per_image=4, image_token_index=63, boi_token_index=62,
        eoi_token_index=61,
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(config)
    for way in WAYS:
        way(single(model, {}, tmp_path / "whole"))
    assert "text_adapter.weight" in refused(single(model, {"text_adapter.weight": torch.ones(3)}, tmp_path / "more"))


def test_an_adapter_beside_the_weights(tmp_path: Path) -> None:
    folder = single(llama(), {}, tmp_path / "stored")
    (folder / "adapter_config.json").write_text("{}")
    assert refused(folder).startswith(f"{folder}: adapter_config.json: there is an adapter (LoRA)")


def test_a_shard_that_no_index_names(tmp_path: Path) -> None:
    folder = sharded(llama(), {}, tmp_path / "stored")
    shutil.copy(next(folder.glob("*.safetensors")), folder / "model-00099-of-00099.safetensors")
    assert "model-00099-of-00099.safetensors: model.safetensors.index.json does not name it" in refused(folder)


def test_two_sets_of_weights(tmp_path: Path) -> None:
    folder = sharded(llama(), {}, tmp_path / "stored")
    llama().save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    assert "two sets of weights" in refused(folder)
