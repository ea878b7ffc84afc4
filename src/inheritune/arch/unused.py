"""Stored tensors that a model does not use, and which of them may be ignored.

Ignoring a tensor may change what the model computes, unless it is listed below. The list is for all formats;
architectures add their own (`_keys_to_ignore_on_load_unexpected` of transformers' classes).
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from inheritune.arch.structure import Structure
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

REMEDY = "mend the config, or get a checkpoint whose weights fit it"

CAUSAL_MASK = r"(^|\.)(attn|attention|self_attn)\.(masked_bias|bias)$"
"""Masks that look like biases by their names."""

_CONSTANTS = (
    r"(^|\.)inv_freq$",
    r"(^|\.)(cos|sin)_cached$",
    r"(^|\.)position_ids$",
    r"(^|\.)embed_positions$",  # GPT-J: sine and cosine of each position
    r"(^|\.)embed_positions\.(weights|_float_tensor)$",  # XGLM
    CAUSAL_MASK,
    r"(^|\.)causal_mask$",
    r"(^|\.)(slopes|alibi)$",
)
"""Buffers that older versions stored, and that follow from the config."""

_OTHER_HEADS = (r"^(v_head|value_head|reward_head|score|classifier|qa_outputs)\.",)
"""Heads for other tasks, beside the head that gives the logits (which must be there)."""

_SPECULATION = (r"(^|\.)mtp(_\w+)?\.",)
"""Layers that guess the tokens after the next one."""

_QUANTISATION = (
    r"(^|[._])(input|output|activation|weight|k|v|q|kv|prob)_(scale|scale_inv|zero_point|global_scale|shape|g_idx)$",
    r"\.(scales?|zeros|qzeros|g_idx|absmax|quant_map|nested_absmax|nested_quant_map|SCB|weight_format)$",
    r"\.quant_state\.\w+$",
)
"""What a quantisation stored beside its numbers, for one that was undone."""

_OTHER_SENSES = (
    r"(^|[._])(vision|visual|vit|image|images|pixel|audio|speech|video|sound)([._]|$)",
    r"(^|[._])(multi_?modal|mm|vision_language)_?\w*([._]|$)",
    r"(^|\.)(connector|resampler|perceiver|projector|aligner|abstractor|qformer|query_tokens|language_projection)([._]|$)",
    r"(^|\.)(mlp1|vte|vqmodel|vqvae|talker|token2wav|code2wav|generation_\w+)([._]|$)",
)
"""Parts of a composite that see, hear and speak, for its text part."""


def left_over(
    names: Iterable[str], model: "PreTrainedModel", structure: Structure, *, quantised: bool = False,
    composite: bool = False,
) -> list[str]:  # fmt: skip
    """The stored `names`, without a tensor in `model`, that may change what it computes.

    `quantised`: a quantisation was undone. `composite`: the text part of a larger model is used.
    """
    known = (*_CONSTANTS, *_OTHER_HEADS, *_SPECULATION, *(_QUANTISATION if quantised else ()))
    known = (*known, *(_OTHER_SENSES if composite else ()), *(model._keys_to_ignore_on_load_unexpected or ()))
    pattern = re.compile("|".join(f"(?:{one})" for one in known))
    return sorted(name for name in names if pattern.search(name) is None and not is_spare(name, model, structure))


def block_beyond(name: str, model: "PreTrainedModel", structure: Structure) -> int | None:
    """The number of a stored name's block, if the config does not count that block."""
    places = (structure.split(one) for one in (name, f"{model.base_model_prefix}.{name}"))
    return next((at[0] for at in places if at is not None and at[0] >= structure.count), None)


def is_spare(name: str, model: "PreTrainedModel", structure: Structure) -> bool:
    """Whether a stored name belongs to layers after the blocks that guess further tokens (DeepSeek-V3)."""
    spare = getattr(model.config, "num_nextn_predict_layers", 0) or 0
    block = block_beyond(name, model, structure)
    return block is not None and block < structure.count + spare


def refuse_left_over(place: str, names: list[str]) -> None:
    """Raise InputError that names the first of the unused tensors `names`, if there are any."""
    if names:
        more = f" ({len(names)} such tensors)" if len(names) > 1 else ""
        what = "the model that the config describes has no such tensor, so it would compute something else without it"
        raise InputError(f"{place}: {names[0]}", what + more, REMEDY)
