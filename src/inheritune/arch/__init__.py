"""What a decoder is: its blocks, config and cost; loading and saving. The only room that knows transformers' ways."""

from inheritune.arch.building import build_empty, build_random, check_positions, new_config
from inheritune.arch.config import shorten
from inheritune.arch.cost import parameter_count, training_flops_per_token
from inheritune.arch.loading import (
    check_tokenizer_fits,
    load_config,
    load_model,
    load_tokenizer,
    silence_libraries,
)
from inheritune.arch.saving import save_model
from inheritune.arch.structure import (
    Structure,
    check_cache,
    check_decoder,
    check_movable,
    differences,
    find_structure,
    layer_count,
)

__all__ = [
    "Structure",
    "build_empty",
    "build_random",
    "check_cache",
    "check_decoder",
    "check_movable",
    "check_positions",
    "check_tokenizer_fits",
    "differences",
    "find_structure",
    "layer_count",
    "load_config",
    "load_model",
    "load_tokenizer",
    "new_config",
    "parameter_count",
    "save_model",
    "shorten",
    "silence_libraries",
    "training_flops_per_token",
]
