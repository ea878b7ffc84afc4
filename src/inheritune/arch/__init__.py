"""What a decoder is: its blocks, config and cost; loading and saving. The only room that knows transformers' ways."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.arch.building import build_empty, build_from, build_hollow, build_random, build_skeleton
    from inheritune.arch.checkpoint_files import Located, fetch, locate
    from inheritune.arch.compatibility import Readers, readers_in, readers_of
    from inheritune.arch.compatible_types import TRIED
    from inheritune.arch.config import shorten
    from inheritune.arch.cost import flops_per_token, parameter_count, shares_of_tokens, training_flops_per_token
    from inheritune.arch.exactness import compensations
    from inheritune.arch.families import Rescale, compensated_attributes, constant_inits, packed_dimension, rescales
    from inheritune.arch.finite import check_numbers, check_stored_numbers
    from inheritune.arch.gguf_header import read_gguf
    from inheritune.arch.head import Head, assumed_head, logits_width, parts_of, plain_linear, split_head
    from inheritune.arch.head_size import legal_head_sizes
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
    from inheritune.arch.new_model import (
        check_positions,
        check_room,
        has_position_table,
        new_config,
        planned_config,
        position_count,
        special_tokens,
    )
    from inheritune.arch.norm_gains import channel_norms, gain_offset, is_root_mean_square, scale_gain
    from inheritune.arch.output_matrices import find_output_matrices
    from inheritune.arch.padding import train_padding_rows
    from inheritune.arch.patching import (
        fade_blocks,
        hidden_of,
        keep_outputs,
        replace_forwards,
        replaced_forwards,
        with_hidden,
    )
    from inheritune.arch.precision import in_dtype
    from inheritune.arch.roles import identity_values, tensor_roles
    from inheritune.arch.router import RouterLoss, find_router_loss, router_loss_of
    from inheritune.arch.saving import save_frame, save_model, save_stored
    from inheritune.arch.selection import Indices, Runs, Selection, as_runs, composed, length, lengths
    from inheritune.arch.sentencepiece_writing import sentencepiece_model
    from inheritune.arch.stored import StoredWeights, take
    from inheritune.arch.structure import (
        Structure,
        block_matrices,
        block_modules,
        check_cache,
        check_decoder,
        check_kv_sources,
        check_movable,
        check_place,
        decoder_config,
        differences,
        find_structure,
        layer_count,
        tensor_shapes,
    )
    from inheritune.arch.tensor_axes import kept_experts, kept_indices
    from inheritune.arch.token_parts import TokenParts
    from inheritune.arch.token_trimming import trim_tokenizer
    from inheritune.arch.unit_counts import first_units
    from inheritune.arch.unit_matrices import UnitMatrix, channel_dimensions, find_unit_matrices
    from inheritune.arch.vocabulary import named_tokens, renumbered, vocabulary_indices, with_vocabulary
    from inheritune.arch.weights import Names, Placement, check_fits, check_stored, place_tensors
    from inheritune.arch.width import expert_groups, head_groups, narrow

__getattr__, __dir__ = lazy.exports(__name__)
