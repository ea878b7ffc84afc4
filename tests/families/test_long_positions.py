"""Blocks inherited of every family at positions beyond the original length, where some rotary positions change.

The parity checks (parity.py) pass 16 tokens, more than a tiny model's window. Here it is three times the length that
dynamic, longrope, yarn and Llama 3 positions are made for, or the unit of attention's temperature.
"""

import copy
from pathlib import Path
from typing import Any

import document
import parity
import pytest
import torch
from forward import logits_of, randomised, some_tokens
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

from inheritune.arch import save_model, silence_libraries
from inheritune.errors import InputError
from inheritune.inheritance import derive, inherit_settings

ORIGINAL, LENGTH = 16, 48
ROPES = ("dynamic", "longrope", "yarn", "llama3")
BY_LENGTH = ("dynamic", "longrope")  # other positions in long sequences than in short ones
_UNITS = ("floor_scale", "log_scaling_n_floor", "local_attention")  # other lengths that `tiny` leaves as they are
_QUICK = ("llama", "phi3", "phimoe", "gemma3_text", "llama4_text", "qwen2")


def with_positions(config: PretrainedConfig, kind: str) -> PretrainedConfig:
    """The config with rotary positions of another kind, made for `ORIGINAL` tokens, in all its layers."""
    found = copy.deepcopy(config)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def changed(own: dict[str, Any]) -> dict[str, Any]:
        count = int(size * own.get("partial_rotary_factor", 1.0)) // 2
        more: dict[str, Any] = {
            "dynamic": {},
            "yarn": {},
            "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "longrope": {
                "short_factor": [1 + 0.1 * place for place in range(count)],
                "long_factor": [2.0 + place for place in range(count)],
                "short_mscale": 1.0,
                "long_mscale": 1.5,
            },
        }[kind]
        return {**own, "rope_type": kind, "factor": 4.0, "original_max_position_embeddings": ORIGINAL, **more}

    own = config.rope_parameters
    by_kind = any(isinstance(value, dict) for value in own.values())
    found.rope_parameters = {name: changed(value) for name, value in own.items()} if by_kind else changed(own)
    if kind == "dynamic":
        found.max_position_embeddings = ORIGINAL
    if hasattr(found, "original_max_position_embeddings"):
        found.original_max_position_embeddings = ORIGINAL
    return type(config).from_dict(found.to_dict())  # which checks it


def built(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
    return randomised(model, scale=0.1)


def check_config(config: PretrainedConfig, place: Path, lengths: tuple[int, ...] = (LENGTH, ORIGINAL - 2)) -> None:
    """Inherit, save and load; the reference's logits without the other blocks, in long and then in short sequences."""
    reference = built(config)
    for kept in ([0, 2, 5], [0, 1, 2], [0, 1, 2, 3, 4]):
        try:
            target, _ = derive(reference, inherit_settings(kept))
        except InputError:
            continue
        break
    else:
        raise AssertionError("no selection can be inherited")
    save_model(target, None, place)
    loaded = AutoModelForCausalLM.from_pretrained(place)
    for tensor in [*loaded.parameters(), *loaded.buffers()]:  # kernels sum otherwise where memory is aligned otherwise
        tensor.data = tensor.data.clone()
    for length in lengths:
        tokens_BT = some_tokens(length=length)
        expected, found = parity.logits_with(reference, kept, tokens_BT), logits_of(target, tokens_BT)
        assert (found - expected).abs().max() <= parity.TOLERANCE, f"{length} tokens"
        assert torch.equal(logits_of(loaded.eval(), tokens_BT), found), f"{length} tokens, as saved"


def check_kind(kind: str, place: Path) -> set[str]:
    """Check a family as it is and with all positions that it can have; returns which those are."""
    config = parity.config_of(kind)
    for name in _UNITS:
        if getattr(config, name, None):
            setattr(config, name, ORIGINAL)
    check_config(config, place / "own")
    checked: set[str] = set()
    if not getattr(config, "rope_parameters", None):
        return checked
    for rope in ROPES:
        try:
            changed = with_positions(config, rope)
            logits_of(built(changed), some_tokens(length=LENGTH))
        except (ValueError, KeyError, RuntimeError, ZeroDivisionError, AttributeError, TypeError, StrictDataclassError):
            continue  # not of this family, or too small a head for it
        check_config(changed, place / rope, (LENGTH, ORIGINAL - 2) if rope in BY_LENGTH else (LENGTH,))
        checked.add(rope)
    return checked


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    silence_libraries()


@pytest.mark.parametrize("rope", ROPES)
def test_the_yardstick_is_sharp(rope: str) -> None:
    """Positions of each kind are others than plain ones, and (dynamic and longrope) others in long sequences."""
    config = parity.config_of("llama")
    tokens_BT = some_tokens(length=LENGTH)
    plain, long, short = (
        logits_of(built(one), tokens_BT[:, :length])
        for one, length in (
            (config, LENGTH),
            (with_positions(config, rope), LENGTH),
            (with_positions(config, rope), 14),
        )
    )
    assert (long - plain).abs().max() > 1e-3
    assert ((long[:, :14] - short).abs().max() > 1e-3) == (rope in BY_LENGTH)


@pytest.mark.parametrize("kind", _QUICK)
def test_some_families(kind: str, tmp_path: Path) -> None:
    checked = check_kind(kind, tmp_path)
    assert checked == ({"longrope"} if kind.startswith("phi") else set(ROPES))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of some architectures' own making
@pytest.mark.parametrize("kind", CAUSAL)
def test_every_family(kind: str, tmp_path: Path) -> None:
    if document.standing(kind)[0] == "yes":
        check_kind(kind, tmp_path)
