"""Whether a family's narrower targets are its reference without the rest of its width: checks that return what is wrong."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from forward import logits_of, randomised, some_tokens
from masks import projected, without_experts, without_heads, without_neurons
from parity import generation_of
from table import CHANGES, DECODERS
from tiny import tiny_fields
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from inheritune.arch import Selection, find_structure, save_model
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, derive

HIDDEN, HEADS, HEAD_SIZE, EXPERTS = 40, 4, 8, 6  # no width but the hidden size is 40
TOLERANCE = 1e-5
_HIDDEN_NAMES = "hidden_size n_embd d_model embedding_dim emb_dim embedding_size word_embed_proj_dim attention_hidden_size_".split()
_EXPERT_NAMES = "num_experts n_routed_experts num_local_experts moe_num_experts".split()
_HEAD_SIZES = {"phi": {"head_dim": 8}, "helium": {"head_dim": 10}, "xlnet": {"d_head": 10}}
_MLP_NAMES = ("n_inner", "intermediate_size", "ffn_hidden_size")


def config_of(kind: str, **more: Any) -> PretrainedConfig:
    """The family's tiny config, with a hidden size like no other width."""
    fields: dict[str, Any] = tiny_fields(kind) | CHANGES.get(kind, {}) | ({"is_decoder": True} if kind in DECODERS else {})
    if not any(name.startswith(("mamba_", "n_groups")) for name in fields):  # refused, and their sizes must fit
        fields |= {name: HIDDEN for name in _HIDDEN_NAMES if fields.get(name) == 32}
    fields |= {name: EXPERTS for name in _EXPERT_NAMES if fields.get(name) == 4}
    if kind == "dbrx":
        fields["ffn_config"] = fields["ffn_config"] | {"hidden_size": HIDDEN, "moe_num_experts": EXPERTS}
    if kind == "persimmon":  # an even number of dimensions to turn
        fields["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.4}
    fields |= _HEAD_SIZES.get(kind, {})
    if kind == "laguna":
        fields["num_attention_heads_per_layer"] = [4] * 6
    return CONFIG_MAPPING[kind](**fields | more)


def reference_of(kind: str, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return randomised(AutoModelForCausalLM.from_config(config_of(kind, **more), dtype=torch.float32), scale=0.1)


def some_neurons(width: int) -> list[int]:
    """Some of the neurons; of shared experts, which are as wide as two, the same of each pair."""
    if width in (96, 32):
        return [2 * unit + one for unit in some_neurons(width // 2) for one in (0, 1)]
    return [unit for unit in range(width) if (unit % 3 != 1 if width == 48 else unit % 2)]


CHANNELS = [channel for channel in range(HIDDEN) if channel % 5 not in (1, 3)]
SOME_HEADS = ([1, 2], [2, 3], [1, 3])  # one of each group, a whole group, every second
SOME_EXPERTS = [0, 2, 3, 5]
SOME_SIZES = ([0, 2, 4, 6], [0, 2, 4, 6])
