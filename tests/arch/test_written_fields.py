"""What is written of a config and a tokenizer: both the names of transformers 5 and those that transformers 4 reads.

That transformers 4 then computes the same is tested where it is installed: tests/compat.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from table import CHANGES
from tiny import tiny_config
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaTokenizer

from conftest import read_json
from inheritune.arch import Readers, readers_in, readers_of, save_frame, save_model
from inheritune.inheritance import inherit_settings, write
from inheritune.recipe import Reference

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "factor": 3.0}
DEFAULT = {"rope_type": "default"}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}


def rope(theta: float, scaling: dict[str, Any] | None = None, **further: Any) -> dict[str, Any]:
    return {"rope_theta": theta, **(scaling or DEFAULT), **further}


def by_kind(full: dict[str, Any], sliding: dict[str, Any]) -> dict[str, Any]:
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


# The type, its fields, and what must stand in config.json for transformers 4.
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {"rope_parameters": rope(5e5)}, {"rope_theta": 5e5, "rope_scaling": None}),
    ("llama", {"rope_parameters": rope(5e5, YARN)}, {"rope_theta": 5e5, "rope_scaling": YARN}),
    ("gemma3_text", by_kind(rope(7e5, LINEAR), rope(3e3)), {"rope_theta": 7e5, "rope_local_base_freq": 3e3, "rope_scaling": LINEAR}),
    ("gemma3_text", by_kind(rope(7e5), rope(3e3)), {"rope_theta": 7e5, "rope_local_base_freq": 3e3, "rope_scaling": None}),
    ("olmo3", by_kind(rope(7e5, YARN), rope(7e5)), {"rope_theta": 7e5, "rope_scaling": YARN}),
    ("gpt_neox", {"rope_parameters": rope(3e3, partial_rotary_factor=0.5)}, {"rotary_emb_base": 3e3, "rotary_pct": 0.5}),
    ("phi", {"rope_parameters": rope(3e3, partial_rotary_factor=0.25)}, {"rope_theta": 3e3, "partial_rotary_factor": 0.25}),
    (
        "phi3",
        {"rope_parameters": rope(3e3, LONG), "original_max_position_embeddings": 16},
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}, "original_max_position_embeddings": 16},
    ),
    ("olmo2", {"rope_parameters": rope(3e3, LINEAR)}, {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    ("qwen3_moe", {}, {"num_experts": 4}),
    ("granitemoehybrid", {"layer_types": ["mamba", "attention"] * 3}, {"layer_types": ["mamba", "attention"] * 3}),
    ("mamba2", {}, {"time_step_limit": [0.0, math.inf]}),
]  # fmt: skip

# What transformers 4 has no words for: written as transformers 5 does, and said to need it.
ONLY_5: list[tuple[str, dict[str, Any], str]] = [
    ("gemma3_text", by_kind(rope(7e5), rope(3e3, LINEAR)), "no rope_scaling for sliding_attention"),
    ("olmo3", by_kind(rope(7e5), rope(3e3)), "one rope_theta for all layers"),
    ("nemotron", {"rope_parameters": rope(3e3, LINEAR, partial_rotary_factor=0.5)}, "type linear in nemotron"),
    ("llama", {"rope_parameters": rope(3e3, LONG, original_max_position_embeddings=16, factor=2.5)}, "the factor of longrope"),
    ("phi3", {"rope_parameters": rope(3e3, LONG, attention_factor=1.5), "original_max_position_embeddings": 16}, "no more"),
    ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 6}, "sliding windows"),
    ("recurrent_gemma", {}, "recurrent_gemma do not load in transformers 4, or were not tried"),
]  # fmt: skip


def frame(kind: str, fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The config.json of a model of that kind, written without its weights."""
    config = tiny_config(kind, **{**CHANGES.get(kind, {}), **fields})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    save_frame(model, None, folder)
    before, after = (one.to_dict() for one in (model.config, AutoConfig.from_pretrained(folder)))
    if "rope_parameters" in after:
        after["rope_parameters"].pop("type", None)  # an older name of rope_type, which is written for some models
    for name, value in before.items():
        if name not in ("architectures", "dtype", "_name_or_path"):
            assert after[name] == value, name
    found: dict[str, Any] = read_json(folder / "config.json")
    return found


@pytest.mark.parametrize(("kind", "fields", "expected"), CASES)
def test_both_versions_names_are_written(
    kind: str, fields: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    found = frame(kind, fields, tmp_path / "frame")
    assert {name: found.get(name) for name in expected} == expected
    assert found["dtype"] == found["torch_dtype"] == "bfloat16"
    assert len(found["architectures"]) == 1
    assert readers_in(tmp_path / "frame").reason_for_5 == ""


@pytest.mark.parametrize(("kind", "fields", "why"), ONLY_5)
def test_what_version_4_has_no_words_for(kind: str, fields: dict[str, Any], why: str, tmp_path: Path) -> None:
    frame(kind, fields, tmp_path / "frame")
    assert why in readers_in(tmp_path / "frame").reason_for_5


def test_every_way_of_writing_a_model(reference_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """From file to file, with a frame, and of a loaded model: the same config, tokenizer and settings of generation."""
    write(Reference(path=str(reference_folder)), inherit_settings([0, 2]), tmp_path / "copied")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "copied")
    assert model.config.rope_parameters["rope_theta"] == 10000.0
    save_model(model, tokenizer, tmp_path / "saved")
    save_frame(model, tokenizer, tmp_path / "frame")
    save_model(model, None, tmp_path / "framed", frame=tmp_path / "frame")
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        (found,) = {(tmp_path / place / name).read_text() for place in ("copied", "saved", "frame", "framed")}
        fields = json.loads(found)
        if name == "config.json":
            assert (fields["rope_theta"], fields["rope_scaling"], fields["torch_dtype"]) == (10000.0, None, "float32")
            assert fields["architectures"] == ["LlamaForCausalLM"]
    assert readers_in(tmp_path / "copied") == readers_of(model.config, tokenizer) == Readers("llama", "", eager=False)


def test_settings_of_generation(reference_folder: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    model.generation_config = GenerationConfig(do_sample=True, temperature=0.7, eos_token_id=[0, 3])
    save_model(model, None, tmp_path / "out")
    found = read_json(tmp_path / "out" / "generation_config.json")
    assert (found["temperature"], found["eos_token_id"], found["do_sample"]) == (0.7, [0, 3], True)
    assert None not in found.values()


def test_tokenizers_are_of_a_class_that_both_have(reference_folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    """What a class's own code decides in transformers 5 is written, as the generic class has other defaults."""
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    core = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in core["merges"]]
    llama = LlamaTokenizer(vocab=core["vocab"], merges=merges, extra_special_tokens=["<extra>"])
    for name, one, side in (("generic", tokenizer, "right"), ("llama", llama, "left")):
        save_model(model, one, tmp_path / name)
        found = read_json(tmp_path / name / "tokenizer_config.json")
        assert found["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert found["model_input_names"] == ["input_ids", "attention_mask"]
        assert found["padding_side"] == side
        assert "extra_special_tokens" not in found
        again = AutoTokenizer.from_pretrained(tmp_path / name)
        assert again.get_vocab() == one.get_vocab()
        assert again("a <extra> b")["input_ids"] == one("a <extra> b")["input_ids"]
        assert again.all_special_tokens == one.all_special_tokens
