"""Which architectures transformers 4 reads as transformers 5 does: every tiny model that both have, whole and in part."""

import importlib.metadata
import json
import warnings
from pathlib import Path
from typing import Any

import document
import parity
import pytest
import torch
from forward import logits_of, randomised, some_tokens
from other_python import read_by_4
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import readers_in, save_model, silence_libraries
from inheritune.arch.compatible_types import READ_BY_4, TRIED
from inheritune.errors import InputError
from inheritune.inheritance import inherit_settings, write
from inheritune.recipe import Reference

pytestmark = pytest.mark.filterwarnings("ignore")  # of some architectures' own making

TOLERANCE = 1e-4
LENGTH = 60  # of at most 64 positions
_SELECTIONS = ([0, 2, 5], [1, 2, 4], [0, 1, 2], [0, 1, 2, 3, 4])
_WIDER = {"hidden_size": 64, "num_attention_heads": 2}  # else a share of a head is one pair, which has no base

# Sizes and settings at which a base, a window or a cap that is not read shows in the logits.
CHANGES: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 2.0},
    "gpt_neox": _WIDER,
    "gpt_neox_japanese": _WIDER,
    "jamba": {"use_mamba_kernels": False},  # it has none on a CPU, and does not do without unless told
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "qwen2_moe": {"use_sliding_window": False},
    "qwen3_next": {"head_dim": 32},
    "stablelm": {**_WIDER, "num_key_value_heads": 2},
    "vaultgemma": {"attn_logit_softcapping": 2.0},
    "zamba": {"use_mamba_kernels": False},
    "zamba2": {"use_mamba_kernels": False},
}


def config_of(kind: str, **changes: Any) -> PretrainedConfig:
    """The family's tiny config with a base of rotary embeddings that is not its default."""
    fields = {**parity.CHANGES.get(kind, {}), **CHANGES.get(kind, {}), **changes}
    config = parity.tiny_config(kind, **fields, **({"is_decoder": True} if kind in parity.DECODERS else {}))
    parameters = getattr(config, "rope_parameters", None) or {}
    for one in [parameters, *(inner for inner in parameters.values() if isinstance(inner, dict))]:
        if one.get("rope_theta"):
            one["rope_theta"] *= 0.37
    return config


def built(config: PretrainedConfig) -> PreTrainedModel:
    """A model of a config with every parameter random."""
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(config, dtype=torch.float32), scale=0.1)


def expect(folder: Path) -> str:
    """Write beside `folder`/model the logits that transformers 5 gives; returns why the files need transformers 5."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, info = AutoModelForCausalLM.from_pretrained(folder / "model", output_loading_info=True)
    assert not any(info.values()), (folder, info)
    tokens_BT = some_tokens(length=LENGTH)
    logits = logits_of(model.eval(), tokens_BT).contiguous()
    save_file({"tokens": tokens_BT, "logits": logits}, folder / "expected.safetensors")
    readers = readers_in(folder / "model")
    (folder / "options.json").write_text(json.dumps({"attn_implementation": "eager"} if readers.eager else {}))
    return readers.reason_for_5


def is_read(found: dict[str, Any]) -> bool:
    """Whether transformers 4 had nothing to complain of and gave the same logits."""
    return "error" not in found and not found["faults"] and found["apart"] < TOLERANCE


def write_kinds(kinds: list[str], place: Path) -> dict[str, str]:
    """Each kind's whole model, and a part of it from its files; why each needs transformers 5, by the folder's name."""
    reasons = {}
    for kind in kinds:
        whole = place / f"{kind}-whole"
        save_model(built(config_of(kind)), None, whole / "model")
        reasons[whole.name] = expect(whole)
        for kept in _SELECTIONS:
            try:
                write(Reference(path=str(whole / "model")), inherit_settings(kept), place / f"{kind}-part" / "model")
            except InputError:
                continue
            reasons[f"{kind}-part"] = expect(place / f"{kind}-part")
            break
    return reasons


def test_every_architecture(tmp_path: Path) -> None:
    """The table is what is measured: no type in it fails, and none outside it would do."""
    silence_libraries()
    (tmp_path / "none").mkdir()
    both = set(CAUSAL) & set(CONFIG_MAPPING) & set(read_by_4(tmp_path / "none")["types"])
    kinds = [kind for kind in sorted(both) if document.standing(kind)[0] == "yes"]
    reasons = write_kinds(kinds, tmp_path / "models")
    answer = read_by_4(tmp_path / "models")
    assert (answer["version"], importlib.metadata.version("transformers")) == TRIED
    assert misjudged(reasons, answer["found"]) == {}
    assert sorted(READ_BY_4 - set(kinds)) == []
    assert len(READ_BY_4) == 100


def misjudged(reasons: dict[str, str], found: dict[str, Any]) -> dict[str, Any]:
    """What was not read though it should be, and what was though it is said to need transformers 5."""
    return {
        name: f"read, though it is said that {why}" if why else found[name]
        for name, why in reasons.items()
        if is_read(found[name]) != (why == "")
    }


ORIGINAL = {"original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "factor": 3.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5, 2.0, 3.0], "long_factor": [2.0, 3.0, 5.0, 7.0], **ORIGINAL}
SHORT = {"max_position_embeddings": 32}  # so that the tests' sequences go beyond, where the base grows with the length

# Scaled rotary embeddings, a row each: the type, the scaling, further changes of the config.
SCALED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", LINEAR, {}),
    ("llama", DYNAMIC, SHORT),
    ("llama", YARN, {}),
    ("llama", {**YARN, "beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5}, {}),
    ("llama", LLAMA3, {}),
    ("llama", LONG, {}),
    ("phi3", LONG, {"original_max_position_embeddings": 16}),
    ("qwen2", YARN, {}),
    ("qwen3", YARN, {}),
    ("gpt_neox", LINEAR, {}),
    ("falcon", LINEAR, {}),
    ("olmo", LINEAR, {}),
    ("olmo2", DYNAMIC, SHORT),
    ("gpt_oss", {**YARN, "truncate": False}, {}),
    ("deepseek_v3", {**YARN, "mscale": 1.5, "mscale_all_dim": 1.0}, {}),
    ("llama4_text", LLAMA3, {}),
    ("smollm3", YARN, {}),
]
BY_KIND = [("gemma3_text", LINEAR), ("gemma3_text", YARN), ("olmo3", YARN)]  # of full attention alone
NEEDS_5: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {**LONG, "factor": 2.5}, {}),
    ("nemotron", LINEAR, {}),
    ("phimoe", {**LONG, "short_mscale": 1.2, "long_mscale": 1.3}, {"original_max_position_embeddings": 16}),
    ("olmo", YARN, {}),
    ("hunyuan_v1_dense", DYNAMIC, SHORT),
    ("llama4_text", LINEAR, {}),
    ("qwen2_moe", {}, {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"] * 3}),
    ("gemma3n_text", {}, {"num_kv_shared_layers": 2}),
]


def test_rotary_embeddings_at_long_positions(tmp_path: Path) -> None:
    silence_libraries()
    reasons, plain = {}, {}
    for number, (kind, scaling, changes) in enumerate([*SCALED, *NEEDS_5]):
        name = f"{number}-{kind}"
        config = config_of(kind, **changes)
        plain[name] = logits_of(built(config_of(kind, **changes)), some_tokens(length=LENGTH))
        config.rope_parameters = {**config.rope_parameters, **scaling}
        save_model(built(type(config).from_dict(config.to_dict())), None, tmp_path / name / "model")
        reasons[name] = expect(tmp_path / name)
    for number, (kind, scaling) in enumerate([*BY_KIND, ("gemma3_text", LINEAR)], 100):
        name, config = f"{number}-{kind}", config_of(kind)
        plain[name] = logits_of(built(config_of(kind)), some_tokens(length=LENGTH))
        layer = "sliding_attention" if number == 100 + len(BY_KIND) else "full_attention"
        config.rope_parameters[layer] |= scaling
        save_model(built(type(config).from_dict(config.to_dict())), None, tmp_path / name / "model")
        reasons[name] = expect(tmp_path / name)
    for name, logits in plain.items():  # else the scaling does not show, and nothing is tested
        if "qwen2_moe" not in name and "gemma3n" not in name:
            assert (load_file(tmp_path / name / "expected.safetensors")["logits"] - logits).abs().max() > 1e-3, name
    assert [bool(why) for why in reasons.values()] == (
        [False] * len(SCALED) + [True] * len(NEEDS_5) + [False] * len(BY_KIND) + [True]
    ), reasons
    assert misjudged(reasons, read_by_4(tmp_path)["found"]) == {}


def test_settings_of_generation_and_dtype(tmp_path: Path) -> None:
    model = built(config_of("llama")).bfloat16()
    chosen = {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 12,
        "eos_token_id": [1, 5],
        "max_new_tokens": 9,
    }
    model.generation_config = GenerationConfig(**chosen)
    save_model(model, None, tmp_path / "one" / "model")
    expect(tmp_path / "one")
    found = read_by_4(tmp_path)["found"]["one"]
    assert {name: found["generation"][name] for name in chosen} == chosen
    assert found["dtype"] == "torch.bfloat16"
