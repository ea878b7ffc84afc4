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
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import reading_options, reason_for_5, save_model, silence_libraries
from inheritune.arch.compatible_types import READ_BY_4, TRIED
from inheritune.errors import InputError
from inheritune.inheritance import make_wish, write
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
    fields = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))
    (folder / "options.json").write_text(json.dumps(reading_options(fields)))
    return reason_for_5(fields)


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
                write(Reference(path=str(whole / "model")), make_wish(kept), place / f"{kind}-part" / "model")
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
    found = answer["found"]
    wrong = {
        name: f"read, though said to need 5: {why}" if why else found[name]
        for name, why in reasons.items()
        if is_read(found[name]) != (why == "")
    }
    assert wrong == {}
    assert sorted(READ_BY_4 - set(kinds)) == []
    assert len(READ_BY_4) > 90
