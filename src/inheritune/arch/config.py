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

# Lists of layer numbers: those layers are of another kind than the rest.
_LAYER_NUMBERS = (
    "attn_layer_indices", "full_attn_idxs", "local_layer_ids", "mlp_only_layers", "moe_layers", "rope_scaling_layers",
)  # fmt: skip


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
    shared = values.get("num_kv_shared_layers")  # "the last k layers take their keys and values from earlier ones"
    if isinstance(shared, int) and not isinstance(shared, bool):
        values["num_kv_shared_layers"] = sum(index >= depth - shared for index in kept)
    for name in _LAYER_NUMBERS:
        layers: Any = values.get(name)
        if isinstance(layers, list):
            values[name] = [place for place, index in enumerate(kept) if index in layers]
    own = values.get("per_layer_config")  # of configs whose layers differ: a layer's own fields, by its number as text
    if isinstance(own, dict):
        values["per_layer_config"] = {
            str(place): own[str(index)] for place, index in enumerate(kept) if str(index) in own
        }
    if len(kept) < depth and {"attention_types", "attention_layers"} <= values.keys():  # gpt_neo: the list, folded
        values["attention_types"] = [[[kind], 1] for kind in values["attention_layers"]]
    short = type(config).from_dict(values)
    short.architectures = copy.copy(config.architectures)
    # set by the loader, not part of what is stored
    short._attn_implementation = config._attn_implementation
    return short
