"""Changing the dtype of a loaded model: it computes what plain transformers computes of a model loaded in that dtype."""

import copy
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

from inheritune.arch import in_dtype, load_model, ready, save_model
from inheritune.recipe import Reference

POSITIONS = 300  # rotary frequencies that are rounded to bfloat16 show from some hundred positions on

SIZES = {
    "vocab_size": 64, "hidden_size": 40, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def gemma3() -> PretrainedConfig:
    """sqrt(40), the factor on its embeddings, has no exact value in bfloat16."""
    return Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=64, layer_types=["sliding_attention", "full_attention"])


def dynamic_llama() -> PretrainedConfig:
    return LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})


MODELS = {"gemma3": (Gemma3ForCausalLM, gemma3), "dynamic llama": (LlamaForCausalLM, dynamic_llama)}


@pytest.fixture(params=MODELS, scope="module")
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bfloat16 model."""
    kind, config = MODELS[request.param]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stored")
    kind(config()).to(torch.bfloat16).save_pretrained(folder)
    return folder


def logits_of(model: PreTrainedModel, length: int = POSITIONS) -> torch.Tensor:
    tokens_BT = torch.randint(0, 64, (1, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(tokens_BT, use_cache=False).logits
    return found


def test_up_is_the_model_loaded_in_float32_and_the_saved_one(stored: Path, tmp_path: Path) -> None:
    expected = AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32)
    raised = in_dtype(load_model(Reference(path=str(stored))), torch.float32)
    assert torch.equal(logits_of(raised), logits_of(expected))
    save_model(raised, None, tmp_path / "saved")
    assert torch.equal(logits_of(raised), logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "saved")))


def test_down_is_the_model_loaded_in_bfloat16(stored: Path) -> None:
    expected = logits_of(AutoModelForCausalLM.from_pretrained(stored, dtype=torch.bfloat16))
    lowered = in_dtype(AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32), torch.bfloat16)
    assert torch.equal(logits_of(lowered), expected)
    with ready(AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32), None, "cpu", "bfloat16") as (held, _):
        assert torch.equal(logits_of(held), expected)


def test_a_rounding_of_old_is_undone(stored: Path) -> None:
    expected = logits_of(AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32))
    rounded = AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32).to(torch.bfloat16).float()
    assert torch.equal(logits_of(in_dtype(rounded, torch.float32)), expected)


def test_one_that_has_seen_longer_text(stored: Path) -> None:
    """Dynamic rotary frequencies grow with the text, and the module remembers how far."""
    used = AutoModelForCausalLM.from_pretrained(stored, dtype=torch.float32)
    expected = logits_of(copy.deepcopy(used), 600)
    logits_of(used, 900)
    assert torch.equal(logits_of(in_dtype(used, torch.float32), 600), expected)


def test_ties_hooks_and_the_object_itself_stay(stored: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(stored, dtype=torch.bfloat16)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert in_dtype(model, torch.float32) is model
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_tensors_that_transformers_keeps_in_float32(tmp_path: Path) -> None:
    """The bias that routes tokens to experts (DeepSeek-V3)."""
    torch.manual_seed(0)
    config = DeepseekV3Config(
        **SIZES, moe_intermediate_size=16, n_routed_experts=4, n_group=2, topk_group=1, num_experts_per_tok=2,
        first_k_dense_replace=1, kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8,
    )  # fmt: skip
    model = DeepseekV3ForCausalLM(config)
    for name, tensor in model.state_dict().items():
        if name.endswith("e_score_correction_bias"):
            tensor.copy_(torch.linspace(0, 0.01, 4) + 1)
    model.save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    lowered = in_dtype(AutoModelForCausalLM.from_pretrained(tmp_path), torch.bfloat16)
    assert {tensor.dtype for tensor in expected.state_dict().values()} == {torch.bfloat16, torch.float32}
    for name, tensor in expected.state_dict().items():
        assert torch.equal(lowered.state_dict()[name], tensor), name
        assert lowered.state_dict()[name].dtype == tensor.dtype, name
    assert torch.equal(logits_of(lowered), logits_of(expected))
