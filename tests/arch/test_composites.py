"""Models with eyes or ears around a text model: the text part is a decoder like any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from forward import logits_of, randomised, some_tokens
from safetensors import safe_open
from tiny import tiny_config
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Llama4Config,
    Llama4ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedModel,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from inheritune.arch import load_config, load_model
from inheritune.errors import InputError
from inheritune.inheritance import inherit_settings, plan_for, write
from inheritune.recipe import Reference

_TEXT = {
    "vocab_size": 67, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_EYES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def _gemma3() -> PreTrainedModel:
    windows = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"] * 2}
    text = _TEXT | windows | {"query_pre_attn_scalar": 8}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=_EYES, mm_tokens_per_image=4))


def _llama4() -> PreTrainedModel:
    experts = {"intermediate_size_mlp": 48, "num_local_experts": 2, "num_experts_per_tok": 1}
    kinds = ["chunked_attention"] * 3 + ["full_attention"]
    outputs = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32, "intermediate_size": 128}
    text = _TEXT | experts | {"layer_types": kinds, "attention_chunk_size": 8}
    return Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=_EYES | outputs))


def _mistral3() -> PreTrainedModel:
    parts = {"text_config": _TEXT | {"model_type": "mistral"}, "vision_config": _EYES | {"model_type": "pixtral"}}
    return Mistral3ForConditionalGeneration(Mistral3Config(**parts))


def _llava() -> PreTrainedModel:
    eyes = _EYES | {"model_type": "clip_vision_model"}
    return LlavaForConditionalGeneration(LlavaConfig(text_config=_TEXT | {"model_type": "llama"}, vision_config=eyes))


def _qwen3_5() -> PreTrainedModel:
    """Another way of naming: the text's tensors are below `model.language_model`."""
    eyes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "depth": 2,
        "num_heads": 4,
        "out_hidden_size": 32,
        "patch_size": 14,
    }
    text = tiny_config("qwen3_5_text").to_dict()
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=eyes))


_KINDS = {"gemma3": _gemma3, "llama4": _llama4, "mistral3": _mistral3, "llava": _llava, "qwen3_5": _qwen3_5}


@pytest.fixture(params=list(_KINDS), scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Path]:
    """The whole model, and its checkpoint."""
    torch.manual_seed(0)
    model = randomised(_KINDS[request.param](), scale=0.1)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model, folder


def test_the_text_part_alone_gives_the_whole_model_s_logits_on_text(
    whole: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, folder = whole
    expected = logits_of(model, some_tokens())
    reference = Reference(path=str(folder))
    assert load_config(reference).num_hidden_layers == model.config.get_text_config().num_hidden_layers
    torch.testing.assert_close(logits_of(load_model(reference), some_tokens()), expected, rtol=0, atol=1e-5)
    write(reference, inherit_settings("all"), tmp_path / "out")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert not any("vision" in name for name in loaded.state_dict())
    torch.testing.assert_close(logits_of(loaded.eval(), some_tokens()), expected, rtol=0, atol=1e-5)


def test_some_blocks_of_it(whole: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    """Against hooks in the whole model that hand on what the dropped blocks got."""
    model, folder = whole
    kept = [0, 3]
    write(Reference(path=str(folder)), inherit_settings(kept), tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    depth = model.config.get_text_config().num_hidden_layers
    lists = [module for name, module in model.named_modules() if name.endswith("layers") and "language" in name]
    (blocks,) = (found for found in lists if len(found) == depth)

    def hand_on(block: Any, given: Any, named: Any, got: Any) -> Any:
        hidden_BTD = given[0] if given else named["hidden_states"]
        return hidden_BTD if torch.is_tensor(got) else (hidden_BTD, *got[1:])

    hooks = [blocks[index].register_forward_hook(hand_on, with_kwargs=True) for index in set(range(depth)) - set(kept)]
    expected = logits_of(model, some_tokens())
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(logits_of(loaded, some_tokens()), expected, rtol=0, atol=1e-5)
    stored: list[str] = []
    for file in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(str(file), framework="pt") as opened:
            stored += opened.keys()
    assert not any("language_model" in name for name in stored)


def test_a_text_part_that_is_not_all_there_is_refused(tmp_path: Path) -> None:
    """The wrapper has something of its own among the text's tensors, so that the text part alone is another model."""
    from safetensors.torch import load_file, save_file

    model = _llava()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["language_model.model.extra.weight"] = torch.zeros(3)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"language_model\.model\.extra\.weight"):
        write(Reference(path=str(tmp_path)), inherit_settings(2), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert plan_for(Reference(path=str(tmp_path)), inherit_settings(2)).plan.kept == (0, 1)
