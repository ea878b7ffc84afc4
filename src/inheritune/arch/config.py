"""The config of a model with fewer blocks."""

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Lists that can be as long as the model is deep without meaning its layers.
_NOT_PER_LAYER = {
    "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens",
    "mrope_section", "keys_to_ignore_at_inference",
}  # fmt: skip


def shorten(config: "PretrainedConfig", kept: list[int]) -> "PretrainedConfig":
    """A copy of `config` for the blocks `kept` (source indices, rising): depth and every list with an entry a layer."""
    depth = config.num_hidden_layers
    values = config.to_dict()
    values[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    for name, value in values.items():
        if name not in _NOT_PER_LAYER and isinstance(value, list | tuple) and len(value) == depth:
            values[name] = [copy.deepcopy(value[index]) for index in kept]
    for name in ("max_window_layers", "first_k_dense_replace"):  # "the first k layers are of one kind"
        limit = values.get(name)
        if isinstance(limit, int) and not isinstance(limit, bool):
            values[name] = sum(index < limit for index in kept)
    for name in ("mlp_only_layers",):  # layer numbers
        layers: Any = values.get(name)
        if isinstance(layers, list):
            values[name] = [place for place, index in enumerate(kept) if index in layers]
    short = type(config).from_dict(values)
    short.architectures = copy.copy(config.architectures)
    # set by the loader, not part of what is stored
    short._attn_implementation = config._attn_implementation
    return short
