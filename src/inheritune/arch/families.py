"""What neither a model's structure nor its code shows, by family. Most families need no entry.

A block that moves keeps its function through the config (`config.shorten`), or by rescaling some of its weights. Where
neither works, the selection is refused.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Rescale:
    """Multiply the slice [start, stop) along `dimension` of a tensor by `factor`.

    What is multiplied is each entry plus `offset` (Gemma's norms add 1 to their weights).
    """

    tensor: str
    dimension: int
    start: int
    stop: int
    factor: float
    offset: float = 0.0

    def apply(self, tensor: "torch.Tensor") -> None:
        """Multiply the slice of the whole `tensor`, in place."""
        part = tensor.narrow(self.dimension, self.start, self.stop - self.start)
        part.add_(self.offset).mul_(self.factor).sub_(self.offset)


# Fields that hold the number of blocks where num_hidden_layers means something else (here: attentions, two a block).
_COUNT = {"longcat_flash": "num_layers"}

# What uses_of_place finds in the code of these families and does no harm: a block takes it from the block before it,
# whichever that is, or `kv_sources` checks that it is the right one, or the tensor is cut by `packed_dimension`.
EXAMINED: dict[str, tuple[str, ...]] = {
    "cohere_compass_text": ("deepstack_visual_embeds",),  # none in the text model
    "gemma3n_text": ("per_layer_inputs",),
    "gemma4_text": ("first_kv_shared_layer_idx", "per_layer_inputs"),
    "gemma4_unified_text": ("first_kv_shared_layer_idx",),
    "glm_moe_dsa": ("topk_indices goes from block to block",),
    "hy_v4": ("topk_indices goes from block to block",),
    "rwkv": ("layer_id", "rescale", "block_id"),  # `shorten` switches rescaling off; block 0 has other modules
    "zaya": ("prev_router_hidden_states goes from block to block",),
}

# Tensors outside the blocks that hold a slice for each block, in the blocks' order, and the dimension of the slices.
_PACKED = {"embed_tokens_per_layer.weight": 1, "per_layer_model_projection.weight": 0}

# The fewest blocks that transformers can build a model of: rwkv divides by the number of blocks less one.
LEAST_BLOCKS = {"rwkv": 2}


def title(config: "PretrainedConfig") -> str:
    """A model's name in messages."""
    return getattr(config, "name_or_path", "") or str(config.model_type)


def count_field(config: "PretrainedConfig") -> str:
    """The name of the config's field that holds the number of blocks."""
    return _COUNT.get(config.model_type, "num_hidden_layers")


def packed_dimension(tensor: str) -> int | None:
    """The dimension along which a tensor outside the blocks holds equal slices for each block; None for all others."""
    return next((dimension for name, dimension in _PACKED.items() if tensor.endswith(name)), None)


def compensated_attributes(config: "PretrainedConfig") -> frozenset[str]:
    """Attributes of a block's modules that may change with its place: `rescales` and `constant_inits` compensate."""
    depth = getattr(config, count_field(config))
    # Tables of all blocks that a block keeps, to look up its own entry.
    names = {name for name, value in config.to_dict().items() if isinstance(value, list) and len(value) == depth}
    # Attention of EXAONE 4 keeps the pattern that its kinds of layers were once made of, and goes by `layer_types`.
    if getattr(config, "layer_types", None) is not None:
        names.add("sliding_window_pattern")
    # A block whose keys and values others use stores them; that changes nothing in what it computes itself.
    names.add("store_full_length_kv")
    if config.model_type == "gpt2" and config.scale_attn_by_inverse_layer_idx:
        names.add("scaling")
    if config.model_type == "minimax":  # used for decays only, which are buffers and travel with the weights
        names.add("num_hidden_layers")
    if config.model_type == "gpt_neox_japanese":
        names.add("use_bias")
    if config.model_type == "big_bird" and config.attention_type == "original_full":
        names.add("seed")  # of sparse attention's random blocks
    return frozenset(names)


def rescales(config: "PretrainedConfig", source_index: int, target_index: int) -> list[Rescale]:
    """The rescaling with which block `source_index` keeps its function at place `target_index`.

    GPT-2 with scale_attn_by_inverse_layer_idx divides attention scores by the block's number, counted from 1: the
    queries, the first third of the projection, make up for it. Its matrices are stored input first.
    """
    if source_index == target_index or config.model_type != "gpt2" or not config.scale_attn_by_inverse_layer_idx:
        return []
    factor, width = (target_index + 1) / (source_index + 1), config.hidden_size
    return [Rescale("attn.c_attn.weight", 1, 0, width, factor), Rescale("attn.c_attn.bias", 0, 0, width, factor)]


def constant_inits(
    config: "PretrainedConfig", source_index: int, target_index: int, target_depth: int
) -> dict[str, float]:
    """Tensors that block `source_index` lacks and needs at place `target_index` of `target_depth`, each with the value
    that keeps the block's function.

    GPT-NeoX-Japanese has a bias after attention in its last block only; without one, the bias is zero.
    """
    last = target_index == target_depth - 1
    if config.model_type == "gpt_neox_japanese" and last and source_index != config.num_hidden_layers - 1:
        return {"attention.dense_bias": 0.0}
    return {}


def kv_sources(config: "PretrainedConfig") -> list[int | None]:
    """For each block the earlier block whose keys and values, or selected tokens, it uses; None for its own."""
    kinds = getattr(config, "indexer_types", None)
    if kinds is not None:
        own = [index for index, kind in enumerate(kinds) if kind != "shared"]
        return [
            max((other for other in own if other < index), default=None) if kind == "shared" else None
            for index, kind in enumerate(kinds)
        ]
    depth: int = getattr(config, count_field(config))
    types = getattr(config, "layer_types", None) or [None] * depth
    first = depth - (getattr(config, "num_kv_shared_layers", 0) or 0)
    return [
        None if index < first else max((other for other in range(first) if types[other] == types[index]), default=None)
        for index in range(depth)
    ]
