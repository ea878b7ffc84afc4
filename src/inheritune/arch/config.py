"""The config of a model with fewer blocks."""

import copy
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from inheritune.arch.families import count_field
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Lists that can be as long as the model is deep without meaning its layers.
_NOT_PER_LAYER = {
    "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens",
    "mrope_section", "keys_to_ignore_at_inference", "axial_pos_shape", "axial_pos_embds_dim", "mlp_multipliers",
    "ssm_multipliers", "languages", "time_step_limit", "hybrid_layer_ids", "block_types", "L_bp_cycles",
    "mtp_layers_block_type", "mtp_layer_types", "mtp_mlp_layer_types", "mtp_local_layer_ids",
}  # fmt: skip

# Lists of layer numbers: those layers are of another kind than the rest. The value is the first layer's number.
_LAYER_NUMBERS = {
    "attn_layer_indices": 0, "full_attn_idxs": 0, "local_layer_ids": 0, "mlp_only_layers": 0, "moe_layers": 0,
    "rope_scaling_layers": 0, "ple_layer_ids": 1,
}  # fmt: skip

# "The first k layers are of one kind."
_FIRST = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")

# "Every step-th layer is of another kind." transformers reads the list instead; other programs may read the step.
_STEPS = (
    "full_attention_interval", "sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers",
    "no_rope_layer_interval", "interleave_moe_layer_step", "layer_group_size",
)  # fmt: skip

# Layers that predict tokens further ahead. transformers builds none, so the saved model has none.
_PREDICTORS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
_PREDICTOR_KINDS = ("mtp_layer_types", "mtp_mlp_layer_types")


def shorten(config: "PretrainedConfig", kept: list[int]) -> "PretrainedConfig":
    """A copy of `config` for the blocks `kept` (source indices, rising): depth and every field that means layers.

    Raises InputError where transformers would make other blocks of the fields than those kept.
    """
    depth: int = getattr(config, count_field(config))
    if kept == list(range(depth)):
        return copy.deepcopy(config)
    values = config.to_dict()
    _set_depth(config, values, len(kept))
    cut = {
        name: [copy.deepcopy(value[index]) for index in kept]
        for name, value in values.items()
        if name not in _NOT_PER_LAYER
        and name not in _LAYER_NUMBERS
        and isinstance(value, list | tuple)
        and len(value) == depth
    }
    values |= copy.deepcopy(cut)  # some configs change the list that they are given
    pattern = values.get("hybrid_override_pattern")  # a letter a layer
    if isinstance(pattern, str) and len(pattern) == depth:
        values["hybrid_override_pattern"] = "".join(pattern[index] for index in kept)
    _renumber(values, kept, depth)
    if kept != list(range(len(kept))):
        _fit_patterns(config, values, kept)
    short = remade(config, values)
    made = short.to_dict()
    for name, expected in cut.items():
        if list(made[name]) != expected:
            raise InputError(
                f"{config.model_type}, blocks {kept}",
                f"transformers makes {name} {list(made[name])} of {expected}",
                "choose blocks whose last is of the kind of the reference's last",
            )
    return short


def remade(config: "PretrainedConfig", values: dict[str, Any]) -> "PretrainedConfig":
    """A config of the same class and for the same use, with other values."""
    other = type(config).from_dict(values)
    other.architectures = copy.copy(config.architectures)
    other._attn_implementation = config._attn_implementation  # set by the loader, not stored
    return other


def _set_depth(config: "PretrainedConfig", values: dict[str, Any], count: int) -> None:
    depth = getattr(config, count_field(config))
    for name in {count_field(config), "num_blocks"}:  # xlstm stores its depth under two names
        name = config.attribute_map.get(name, name)
        if values.get(name) == depth:
            values[name] = count
    if config.model_type == "minicpm3":  # it divides scale_depth by the root of the depth
        values["scale_depth"] = config.scale_depth * math.sqrt(count / depth)
    if config.model_type == "rwkv":  # halves hidden states as they go, by their place; only float16 needs that
        values["rescale_every"] = 0
    for name in _PREDICTORS:
        if values.get(name):
            values |= {name: 0} | {kinds: None for kinds in _PREDICTOR_KINDS if kinds in values}


def _renumber(values: dict[str, Any], kept: list[int], depth: int) -> None:
    """Translate numbers of layers, and limits between layers of two kinds, to the layers kept."""
    for name in _FIRST:
        limit = values.get(name)
        if isinstance(limit, int) and not isinstance(limit, bool):
            values[name] = sum(index < limit for index in kept)
    shared = values.get("num_kv_shared_layers")  # "the last k layers take their keys and values from earlier ones"
    if isinstance(shared, int) and not isinstance(shared, bool):
        values["num_kv_shared_layers"] = sum(index >= depth - shared for index in kept)
    for name, first in _LAYER_NUMBERS.items():
        layers: Any = values.get(name)
        if isinstance(layers, list):
            values[name] = [place + first for place, index in enumerate(kept) if index + first in layers]
    own = values.get("per_layer_config")  # of configs whose layers differ: a layer's own fields, by its number as text
    if isinstance(own, dict):
        by_number = {int(number): fields for number, fields in own.items()}
        values["per_layer_config"] = {
            str(place): by_number[index] for place, index in enumerate(kept) if index in by_number
        }
    if {"attention_types", "attention_layers"} <= values.keys():  # gpt_neo: the list, folded
        values["attention_types"] = [[[kind], 1] for kind in values["attention_layers"]]


def _fit_patterns(config: "PretrainedConfig", values: dict[str, Any], kept: list[int]) -> None:
    """Change patterns of layer numbers so that they give the layers kept. Raises InputError where none can."""
    for name in list(values):
        period = re.fullmatch(r"(.*)_layer_period", name)
        offset = f"{period.group(1)}_layer_offset" if period else ""
        if offset in values and not values.get("layers_block_type"):
            pair = next(_periods([index % values[name] == values[offset] for index in kept]), None)
            if pair is None:
                raise _inexpressible(config, kept, f"{name} and {offset}")
            values[name], values[offset] = pair
    step = values.get("decoder_sparse_step")
    if isinstance(step, int) and step > 1 and "mlp_only_layers" in values:  # the list can express the step
        dense = set(values["mlp_only_layers"] or [])
        values["mlp_only_layers"] = [
            place for place, index in enumerate(kept) if place in dense or (index + 1) % step != 0
        ]
        values["decoder_sparse_step"] = 1
    for name in _STEPS:
        step = values.get(name)
        if isinstance(step, int) and step > 1:
            periods = _periods([(index + 1) % step == 0 for index in kept])
            values[name] = next((period for period, offset in periods if offset == period - 1 > 0), step)
    cycle = values.get("block_types")
    if isinstance(cycle, list) and cycle:
        values["block_types"] = [cycle[index % len(cycle)] for index in kept]
    _fit_interval(config, values, kept)


def _periods(marked: list[bool]) -> Iterator[tuple[int, int]]:
    """Periods with an offset that mark these layers, shortest first."""
    for period in range(1, len(marked) + 2):
        for offset in range(period):
            if [place % period == offset for place in range(len(marked))] == marked:
                yield period, offset


def _inexpressible(config: "PretrainedConfig", kept: list[int], fields: str) -> InputError:
    return InputError(
        f"{config.model_type}, blocks {kept}",
        f"no {fields} can express the kinds of these blocks",
        "choose blocks whose kinds alternate evenly, or choose: first",
    )


def _fit_interval(config: "PretrainedConfig", values: dict[str, Any], kept: list[int]) -> None:
    """ernie4_5_moe: every interval-th layer between two numbers has experts."""
    names = ("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval")
    if not values.keys() >= set(names):
        return
    start, end, interval = (values[name] for name in names)
    wanted = [place for place, index in enumerate(kept) if (index + 1) % interval == 0 and start <= index <= end]
    if not wanted:
        values[names[0]] = len(kept)
        return
    for step in range(1, len(kept) + 1):
        if [place for place in range(wanted[0], wanted[-1] + 1) if (place + 1) % step == 0] == wanted:
            values.update(zip(names, (wanted[0], wanted[-1], step), strict=True))
            return
    raise _inexpressible(config, kept, ", ".join(names))
