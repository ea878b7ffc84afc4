"""A config with everything that a .gguf file states, or an error that names what it cannot express.

transformers reads some of a file's keys, takes the rest from the defaults of its config classes, and ignores tensors
that it does not know. So each key of the architecture is compared with the config here: the config has it, gets it, or
does not need it (a scale of 1). Otherwise the file is refused.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inheritune.arch.gguf_header import REMEDY, GgufHeader
from inheritune.arch.gguf_rope import ROPE_KEYS, as_divisors, scaled_rope
from inheritune.arch.gguf_tensors import whole_architectures, with_all_tensors
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# The config fields with the meaning of a key; the first one that the config class has is used.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "n_positions"),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_hidden_size"),
    "vocab_size": ("vocab_size",),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attention.key_length_swa": ("head_dim",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "embedding_length_per_layer_input": ("hidden_size_per_layer_input",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "use_parallel_residual": ("use_parallel_residual",),
    "expert_count": ("num_experts", "num_local_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "full_attention_interval": ("full_attention_interval",),
    "shortconv.l_cache": ("conv_L_cache",),
    "ssm.conv_kernel": ("conv_kernel", "linear_conv_kernel_dim"),
    "ssm.inner_size": ("intermediate_size",),
    "ssm.state_size": ("state_size", "linear_key_head_dim"),
    "ssm.group_count": ("linear_num_key_heads",),
    "ssm.time_step_rank": ("time_step_rank", "linear_num_value_heads"),
}

# Values with which a key does not change what a model computes.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("attention.clamp_kqv", "attention.max_alibi_bias", "attention.sliding_window", "attention.temperature_scale",
         "attention.temperature_length", "attention.shared_kv_layers", "attn_logit_softcapping",
         "final_logit_softcapping", "router_logit_softcapping", "expert_count", "expert_used_count",
         "expert_shared_count", "leading_dense_block_count", "nextn_predict_layers",
         "embedding_length_per_layer_input"),
        (0,),
    ),
    **dict.fromkeys(
        ("attention.output_scale", "embedding_scale", "residual_scale", "logit_scale", "expert_group_count",
         "expert_group_used_count", "expert_weights_scale", "rope.scaling.alpha"),
        (0, 1),
    ),
    **dict.fromkeys(("expert_weights_norm", "ssm.dt_b_c_rms", "use_parallel_residual"), (False,)),
    "attention.causal": (True,),
    "expert_gating_func": (0, 1),  # softmax
}  # fmt: skip

_NO_FIELDS = ROPE_KEYS | {
    "tensor_data_layout", "pooling_type",  # of the file, or of other uses of the model
    "attention.key_length", "attention.value_length", "rope.dimension_count", "rope.dimension_count_swa",
    "attention.sliding_window_pattern", "attention.scale",
}  # fmt: skip
"""Keys that are no field of a config; those that matter have a function below."""

_PARTIAL_ROTARY = ("phi3", "stablelm", "nemotron")
"""Model types that can rotate a part of each head."""


def restored_config(config: "PretrainedConfig", header: GgufHeader) -> "PretrainedConfig":
    """`config`, which transformers made of a .gguf file, with all that the file's `header` states.

    Raises InputError, naming the key or tensor, for what such a config cannot express or transformers would ignore.
    """
    changes = _changes(config, header)
    if changes:
        config = type(config).from_dict(config.to_dict() | changes)
        if unset := _changes(config, header):
            raise InputError(f"{header.place}: {next(iter(unset))}", "cannot be set in transformers' config", REMEDY)
    return with_all_tensors(config, header)


def _changes(config: "PretrainedConfig", header: GgufHeader) -> dict[str, Any]:
    """The fields that differ, with their new values. Raises InputError for keys that no field expresses."""
    known = set(type(config)().to_dict()) | set(type(config).attribute_map)
    changes: dict[str, Any] = {}
    prefix = f"{header.architecture}."
    shaped = whole_architectures()  # of which transformers reads every shape
    for key in header.metadata:
        name = key.removeprefix(prefix)
        if name == key or name in _NO_FIELDS:
            continue
        if header.architecture in shaped and (name in _FIELDS or name in _SHAPES):
            continue
        if header.get(name) == 0 and name in _ABSENT:
            continue
        value, field = header.get(name), next((one for one in _FIELDS.get(name, ()) if one in known), None)
        if field is not None and _same(_field(config, field), value):
            continue
        if value in _NEUTRAL.get(name, ()) and (field is None or not _field(config, field)):
            continue
        if field is None or isinstance(value, list):
            if (name == "context_length" and field is None) or _is_derived(name, value, config):
                continue
            raise _refusal(header, name, config)
        switched_off = value == 0 and name.endswith(("softcapping", "sliding_window"))
        changes[field] = None if switched_off else value
    _heads(config, header, changes)
    _window_pattern(config, header, changes)
    _attention_scale(config, header, changes)
    entries = header.get("vocab_size") or config.vocab_size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):  # no default of the class beyond the vocabulary
        if isinstance(token := getattr(config, name, None), int) and token >= entries:
            changes[name] = None
    changes |= _rope(config, header, changes)
    return {name: value for name, value in changes.items() if getattr(config, name, None) != value}


_ABSENT = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
"""Sizes that are 0 in models without such a part (Mamba)."""

_SHAPES = ("rope.dimension_sections", "nextn_predict_layers")


def _refusal(header: GgufHeader, name: str, config: "PretrainedConfig") -> InputError:
    value = " ".join(str(header.get(name)).split())[:60]
    return header.refusal(name, f"is {value}, which transformers' {config.model_type} does not take into account")


def _field(config: "PretrainedConfig", field: str) -> Any:
    value = getattr(config, field, None)
    if field == "n_inner" and value is None:
        return 4 * config.hidden_size
    return value


def _same(ours: Any, stated: Any) -> bool:
    """Whether a config's value is what the file states; a file has 32 bits for a number."""
    import numpy as np

    if isinstance(stated, list):  # a number for each block
        return all(_same(ours, one) for one in stated)
    if isinstance(stated, float) and isinstance(ours, int | float):
        return bool(np.float32(ours) == np.float32(stated))
    return bool(ours == stated)


def _is_derived(name: str, value: Any, config: "PretrainedConfig") -> bool:
    """Whether a key without a config field only repeats what follows from other keys."""
    heads, size = getattr(config, "num_attention_heads", None), getattr(config, "hidden_size", 0)
    if name == "attention.head_count_kv":
        return bool(value == heads)
    if name == "feed_forward_length":
        return bool(value == 4 * size)
    if name == "expert_gating_func":
        return {1: "softmax", 2: "sigmoid"}.get(value) == getattr(config, "scoring_func", "")
    if name == "ssm.inner_size":
        return bool(value == getattr(config, "expand", 0) * size)
    return False


def _heads(config: "PretrainedConfig", header: GgufHeader, changes: dict[str, Any]) -> None:
    """The size of a head: `attention.key_length`, else the hidden size by the heads."""
    count = getattr(config, "num_attention_heads", None)
    if not isinstance(count, int) or not isinstance(header.get("attention.head_count", 0), int) or not count:
        return
    count = header.get("attention.head_count") or count
    size = header.get("attention.key_length") or header.get("embedding_length", config.hidden_size) // count
    value = header.get("attention.value_length", size)
    if value != size:
        raise _refusal(header, "attention.value_length", config)
    if config.model_type == "gemma4_text":  # where it is the size in layers with full attention
        if getattr(config, "global_head_dim", size) != size:
            changes["global_head_dim"] = size
        return
    ours = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if ours != size:
        changes["head_dim"] = size


def _window_pattern(config: "PretrainedConfig", header: GgufHeader, changes: dict[str, Any]) -> None:
    """Which layers have a sliding window: a mark for each layer, or the period of layers without one."""
    stated = header.get("attention.sliding_window_pattern")
    if stated is None:
        return
    if getattr(config, "layer_types", None) is None:
        raise _refusal(header, "attention.sliding_window_pattern", config)
    count = int(header.number("block_count", config.num_hidden_layers))
    if isinstance(stated, list):
        slides = [bool(one) for one in stated]
    else:
        slides = [int(stated) == 0 or (at + 1) % int(stated) != 0 for at in range(count)]
    kinds = ["sliding_attention" if one else "full_attention" for one in slides]
    changes["layer_types"] = kinds


def _attention_scale(config: "PretrainedConfig", header: GgufHeader, changes: dict[str, Any]) -> None:
    """Gemma 2 and 3 have their own scale. Most files do not state it: llama.cpp derives it from the model's size."""
    stated = header.number("attention.scale", 0.0)
    if not hasattr(config, "query_pre_attn_scalar"):
        size = header.get("attention.key_length") or 0
        if stated and not (size and abs(stated * size**0.5 - 1) < 1e-5):
            raise _refusal(header, "attention.scale", config)
        return
    large = {"gemma2": 46, "gemma3": 62}.get(header.architecture) == header.get("block_count")  # the models of 27B
    width, count = header.number("embedding_length", 0), header.number("attention.head_count", 1)
    scalar = width / count if large else header.number("attention.key_length", width / count)
    scalar = stated**-2 if stated else scalar
    scalar = round(scalar) if abs(scalar - round(scalar)) < 1e-4 * scalar else scalar
    changes["query_pre_attn_scalar"] = scalar


_KEPT = ("partial_rotary_factor", "mrope_section", "mrope_interleaved")


def _rope(config: "PretrainedConfig", header: GgufHeader, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the rotary embedding, as the file states it."""
    ours = getattr(config, "rope_parameters", None)
    if not isinstance(ours, dict) or getattr(config, "alibi", False):
        stated = [name for name in (*ROPE_KEYS, "rope.dimension_count") if header.get(name) not in (None, 0)]
        if stated:
            raise _refusal(header, sorted(stated)[0], config)
        if header.rope:
            raise InputError(f"{header.place}: {next(iter(header.rope))}", "the model has no such frequencies", REMEDY)
        return {}
    layered = "full_attention" in ours
    whole = ours["full_attention"] if layered else ours
    size = changes.get("global_head_dim") or changes.get("head_dim") or getattr(config, "global_head_dim", None)
    size = size or getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    dimensions = int(header.number("rope.dimension_count", size * whole.get("partial_rotary_factor", 1.0)))
    theta = float(header.number("rope.freq_base", whole["rope_theta"]))
    if config.model_type == "gemma4_text":
        return _proportional(ours, header, theta, dimensions)
    rope = scaled_rope(header, theta, dimensions)
    if config.model_type == "phi3":
        rope = as_divisors(rope, dimensions, int(header.number("context_length", 0)))
    keep = {name: value for name, value in whole.items() if name in _KEPT}
    if dimensions != int(size * keep.get("partial_rotary_factor", 1.0)):
        if config.model_type not in _PARTIAL_ROTARY and getattr(config, "rotary_dim", None) != dimensions:
            raise _refusal(header, "rope.dimension_count", config)
        keep["partial_rotary_factor"] = dimensions / size
    rope = keep | rope
    if layered:
        local = dict(ours.get("sliding_attention", {}))
        if header.get("rope.freq_base_swa") is not None:
            local["rope_theta"] = float(header.get("rope.freq_base_swa"))
        rope = ours | {"full_attention": rope} | ({"sliding_attention": local} if local else {})
    elif header.get("rope.freq_base_swa", theta) != theta:
        raise _refusal(header, "rope.freq_base_swa", config)
    length = rope.get("original_max_position_embeddings")
    if length is None or not hasattr(config, "original_max_position_embeddings"):
        return {"rope_parameters": rope}
    return {"rope_parameters": rope, "original_max_position_embeddings": length}  # Phi-3 reads it outside


def _proportional(ours: dict[str, Any], header: GgufHeader, theta: float, dimensions: int) -> dict[str, Any]:
    """Gemma 4: full attention has zero frequencies, which a file expresses with huge divisors."""
    whole, local = ours["full_attention"], ours["sliding_attention"]
    if any(header.get(name) is not None for name in ROPE_KEYS if name.startswith("rope.scal")):
        raise header.refusal("rope.scaling", "is not known of this model")
    divisors = header.rope.get("rope_freqs.weight", ())
    turned = int(whole.get("partial_rotary_factor", 1.0) * dimensions // 2)
    if len(header.rope) != len(divisors and (1,)) or any(
        value != 1 if at < turned else value < 1e20 for at, value in enumerate(divisors)
    ):
        raise InputError(f"{header.place}: {next(iter(header.rope))}", "are other frequencies than the model's", REMEDY)
    base = float(header.number("rope.freq_base_swa", local["rope_theta"]))
    rope = {"full_attention": whole | {"rope_theta": theta}, "sliding_attention": local | {"rope_theta": base}}
    return {"rope_parameters": ours | rope}
