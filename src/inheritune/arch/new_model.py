"""Configs of models that a recipe describes, and whether a model has enough positions for its sequences."""

import difflib
import re
from typing import TYPE_CHECKING, Any

from inheritune.arch.building import build_skeleton
from inheritune.arch.loading import load_config, load_tokenizer, silence_libraries
from inheritune.arch.structure import check_decoder, find_structure
from inheritune.errors import BUILD_ERRORS, InputError
from inheritune.limits import check_counts
from inheritune.recipe import NewTokenizer, Reference, model_at
from inheritune.token_ids import vocabulary_size

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PLACE = "reference.train.model"
# Tables of learned positions.
_POSITION = re.compile(r"(^|[._])(wpe|embed_positions|positions?_embeddings?|pos_emb\w*)$")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def new_config(
    fields: dict[str, Any], vocabulary: int, special_tokens: dict[str, int | None], sequence_length: int
) -> "PretrainedConfig":
    """A config from a recipe's `reference.train.model`, for a tokenizer whose ids are below `vocabulary`.

    `special_tokens` are config fields such as eos_token_id; the others are None.

    Raises InputError for an unknown model type or field.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    silence_libraries()
    check_counts(fields, _PLACE)
    fields = dict(fields)
    kind = fields.pop("model_type", None)
    if str(kind) not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING.keys()), n=3)
        remedy = f"for example {', '.join(near) or 'gpt2, llama'}"
        raise InputError(f"{_PLACE}.model_type", f"transformers has no {kind!r}", remedy)
    config_class = CONFIG_MAPPING[kind]
    legal = set(config_class().to_dict()) | set(config_class.attribute_map)
    for name in fields:
        if name not in legal:
            near = difflib.get_close_matches(name, sorted(legal), n=3)
            raise InputError(_PLACE, f"{kind} has no field {name!r}", f"nearest: {', '.join(near) or 'none'}")
    if "vocab_size" in fields:
        raise InputError(f"{_PLACE}.vocab_size", "the tokenizer decides it", "remove the key")
    none = dict.fromkeys(_SPECIAL)
    try:
        config = config_class(**fields, vocab_size=vocabulary, **(none | special_tokens))
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        raise InputError(_PLACE, f"{kind} refuses it: {error}", "change the fields") from None
    check_decoder(config)
    check_positions(config, sequence_length, _PLACE)
    skeleton = build_skeleton(config, place=_PLACE)  # finds what cannot be built or cut before any work is done
    find_structure(skeleton)
    _check_runs_without_padding(skeleton)
    return config


def _check_runs_without_padding(model: "PreTrainedModel") -> None:
    """Raise InputError for an architecture that counts positions by padding (RoBERTa) without a padding token."""
    import torch

    if model.config.pad_token_id is not None:
        return
    try:
        model(input_ids=torch.zeros((1, 2), dtype=torch.long, device="meta"), use_cache=False)
    except TypeError:  # None where a number is needed
        raise InputError(
            f"{_PLACE}.model_type",
            f"{model.config.model_type} needs a padding token, and the tokenizer has none",
            "name a tokenizer that has one (reference.train.tokenizer), or give another model type",
        ) from None
    except (RuntimeError, ValueError, AttributeError):  # code that needs values, which the meta device lacks
        return


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int | None]:
    """The config fields for a tokenizer's special tokens."""
    return {name: getattr(tokenizer, name) for name in _SPECIAL}


def planned_config(reference: Reference, sequence_length: int, *, weights: bool = True) -> "PretrainedConfig":
    """The config of a reference, stored or described by a recipe (for sequences of `sequence_length` tokens).

    With `weights`, those of a stored one must exist too. Raises InputError as `load_config` and `new_config` do.
    """
    new = reference.train
    if new is None:
        return load_config(reference, weights=weights)
    if isinstance(new.tokenizer, NewTokenizer):
        return new_config(new.model, new.tokenizer.vocabulary, {}, sequence_length)
    tokenizer = load_tokenizer(model_at(new.tokenizer, "reference.train.tokenizer"))
    return new_config(new.model, vocabulary_size(tokenizer), special_tokens(tokenizer), sequence_length)


def position_count(config: "PretrainedConfig") -> int | None:
    """How many positions a model has; None where its config names no number."""
    positions = getattr(config, "max_position_embeddings", None)
    return positions if isinstance(positions, int) and positions > 0 else None


def check_positions(config: "PretrainedConfig", sequence_length: int, place: str) -> None:
    """Raise InputError when sequences are longer than the positions that the model has."""
    positions = position_count(config)
    if positions is not None and positions < sequence_length:
        what = f"the model has {positions} positions, train.sequence_length is {sequence_length}"
        raise InputError(place, what, f"give at most {positions}")


def has_position_table(model: "PreTrainedModel") -> bool:
    """Whether the model learns its positions in a table, which limits their number to the config's."""
    import torch

    modules = model.named_modules()
    return any(isinstance(module, torch.nn.Embedding) and _POSITION.search(name) for name, module in modules)


def check_room(model: "PreTrainedModel", length: int) -> None:
    """Raise InputError where an input of `length` tokens is longer than a model's table of learned positions.

    Sequences in which documents begin are longer than others, by a prefix for each document.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and length > positions and has_position_table(model):
        raise InputError(
            "sequence length",
            f"with the start tokens of its documents, a sequence takes {length} positions, the model has {positions}",
            f"shorten sequences by {length - positions} or more, or give attention: document, or prefix: none",
        )
