"""What a decoder is: its blocks, config and cost; loading and saving. The only room that knows transformers' ways."""

from inheritune.arch.building import (
    build_empty,
    build_from,
    build_random,
    build_skeleton,
    check_positions,
    check_room,
    has_position_table,
    new_config,
    planned_config,
    special_tokens,
)
from inheritune.arch.checkpoint_files import Located, fetch, locate
from inheritune.arch.compatibility import Readers, readers_in, readers_of
from inheritune.arch.compatible_types import TRIED
from inheritune.arch.config import shorten
from inheritune.arch.cost import flops_per_token, parameter_count, shares_of_tokens, training_flops_per_token
from inheritune.arch.families import Fold, fills, folds, packed_dimension, settled_attributes
from inheritune.arch.finite import check_numbers, check_stored_numbers
from inheritune.arch.gguf_header import read_gguf
from inheritune.arch.head import Head, assumed_head, logits_width, split_head
from inheritune.arch.loading import (
    check_tokenizer_fits,
    find_tokenizer,
    frame_config,
    load_config,
    load_generation_config,
    load_model,
    load_tokenizer,
    open_weights,
    silence_libraries,
)
from inheritune.arch.model_source import ready, resolve_dtype, title
from inheritune.arch.padding import train_padding_rows
from inheritune.arch.patching import hidden_of, keep_outputs, replace_forwards, replaced_forwards, with_hidden
from inheritune.arch.precision import in_dtype
from inheritune.arch.roles import Role, silencing_values, tensor_roles
from inheritune.arch.router import RouterLoss, find_router_loss, router_loss_of
from inheritune.arch.saving import save_frame, save_model, save_stored
from inheritune.arch.stored import take
from inheritune.arch.structure import (
    Structure,
    block_matrices,
    block_modules,
    check_cache,
    check_decoder,
    check_lenders,
    check_movable,
    check_place,
    decoder_config,
    differences,
    find_structure,
    layer_count,
)
from inheritune.arch.weights import Names, Placement, StoredWeights, check_fits, check_stored, place_tensors
from inheritune.arch.width import Ranges, halve, kept_ranges

__all__ = [
    "TRIED",
    "Fold",
    "Head",
    "Located",
    "Names",
    "Placement",
    "Ranges",
    "Readers",
    "Role",
    "RouterLoss",
    "StoredWeights",
    "Structure",
    "assumed_head",
    "block_matrices",
    "block_modules",
    "build_empty",
    "build_from",
    "build_random",
    "build_skeleton",
    "check_cache",
    "check_decoder",
    "check_fits",
    "check_lenders",
    "check_movable",
    "check_numbers",
    "check_place",
    "check_positions",
    "check_room",
    "check_stored",
    "check_stored_numbers",
    "check_tokenizer_fits",
    "decoder_config",
    "differences",
    "fetch",
    "fills",
    "find_router_loss",
    "find_structure",
    "find_tokenizer",
    "flops_per_token",
    "folds",
    "frame_config",
    "halve",
    "has_position_table",
    "hidden_of",
    "in_dtype",
    "keep_outputs",
    "kept_ranges",
    "layer_count",
    "load_config",
    "load_generation_config",
    "load_model",
    "load_tokenizer",
    "locate",
    "logits_width",
    "new_config",
    "open_weights",
    "packed_dimension",
    "parameter_count",
    "place_tensors",
    "planned_config",
    "read_gguf",
    "readers_in",
    "readers_of",
    "ready",
    "replace_forwards",
    "replaced_forwards",
    "resolve_dtype",
    "router_loss_of",
    "save_frame",
    "save_model",
    "save_stored",
    "settled_attributes",
    "shares_of_tokens",
    "shorten",
    "silence_libraries",
    "silencing_values",
    "special_tokens",
    "split_head",
    "take",
    "tensor_roles",
    "title",
    "train_padding_rows",
    "training_flops_per_token",
    "with_hidden",
]
