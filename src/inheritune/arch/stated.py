"""Widths that a config leaves to its defaults, written into it, so that they can differ from what they follow from."""

import copy
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.arch.config import remade
from inheritune.arch.families import title
from inheritune.arch.selection import Selection
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HEAD_SIZE = r"head_dim|dim_head|d_head|kv_channels|attention_head_size|attention_head_dim"
_PARTS = ("v_head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "swa_head_dim", "global_head_dim")
_HIDDEN, _HEADS = ("hidden_size", "n_embd", "d_model"), ("num_attention_heads", "n_head", "n_heads", "num_heads")
_MLP = ("n_inner", "intermediate_size", "ffn_hidden_size")  # None: four times the hidden size
_SLICES = {"olmoe"}  # norms over queries and keys are as long as the hidden size by the heads says
_READS_HEAD_SIZE = re.compile(
    r'self\.head_dim = \(?\s*getattr\(\s*(self\.)?config,\s*"head_dim"|self\.head_dim = config\.head_dim or'
)


def derives_head_size(config: "PretrainedConfig") -> bool:
    """Whether the size of a head is the hidden size by the heads, and no field of its own."""
    return not any(re.match(rf"(qk_\w*)?({HEAD_SIZE})", name) and v for name, v in config.to_dict().items())


def check_head_size_stated(config: "PretrainedConfig") -> None:
    """Raise InputError where a config has no size of heads, or several."""
    remedy = "keep the size of its heads"
    if derives_head_size(config):
        raise InputError(title(config), "its heads are slices of its hidden size", remedy)
    others = [name for name, value in config.to_dict().items() if name in _PARTS and value]
    if others:
        raise InputError(title(config), f"its heads have parts of several sizes ({', '.join(others)})", remedy)


def stated(config: "PretrainedConfig", selection: Selection) -> "PretrainedConfig":
    """The config with the head size and the MLP's width in it, where `selection` needs them and the code reads them.

    The model is the same. A selection that need not be exact leaves the config as it is.
    """
    if not selection.exact or selection.is_full_width:
        return config
    values = config.to_dict()
    hidden = next((values[name] for name in _HIDDEN if values.get(name)), None)
    heads = next((values[name] for name in _HEADS if values.get(name)), None)
    new: dict[str, int] = {}
    by_heads = {selection.heads, selection.hidden, selection.head_size} != {None} or selection.by_field
    own = config.model_type not in _SLICES and reads_head_size(type(config).__module__)
    if hidden and heads and by_heads and own and derives_head_size(config):
        new["head_dim"] = hidden // heads
    mlp = next((name for name in _MLP if name in values and values[name] is None), None)
    if hidden and mlp and {selection.neurons, selection.hidden} != {None}:
        new[mlp] = 4 * hidden
    return remade(config, copy.deepcopy(values) | new) if new else config


@lru_cache(maxsize=64)
def reads_head_size(module: str) -> bool:
    """Whether the code beside a config's module takes the size of a head from the config where it is there."""
    found = find_spec(module.replace("configuration_", "modeling_"))
    source = Path(found.origin).read_text(encoding="utf-8") if found is not None and found.origin else ""
    return _READS_HEAD_SIZE.search(source) is not None
