"""A smaller vocabulary: which rows of tensors belong to the tokens that stay, and configs with the tokens' new ids."""

import re
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from inheritune.arch.building import build_skeleton
from inheritune.arch.config import remade
from inheritune.arch.families import title
from inheritune.arch.selection import Indices, Runs, as_runs, joined, lengths
from inheritune.arch.structure import tensor_shapes
from inheritune.errors import BUILD_ERRORS, InputError

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

_REMEDY = "keep the full vocabulary of this architecture"
_STEP = 1024  # tokens more, to see which tensors grow; a multiple of what vocabularies are padded to

_PER_LAYER = "vocab_size_per_layer_input"  # Gemma 3n: tokens beyond it take the per-layer embedding of token 0
_SIZES = ("vocab_size", _PER_LAYER, "unpadded_vocab_size")
"""Fields that say how many tokens, from 0, have a row of a kind."""

_TOKEN = re.compile(r"(^|_)token_(id|ids|index)$")
"""Fields that name tokens by their ids: a number, or a list of numbers."""

_AVOIDED = ("suppress_tokens", "begin_suppress_tokens")
"""Fields that name tokens that are not to be generated. One that is dropped needs no mention."""

_UNSUPPORTED = ("sequence_bias", "bad_words_ids", "force_words_ids", "forced_decoder_ids")


def with_vocabulary(config: "PretrainedConfig", tokens: Indices) -> "PretrainedConfig":
    """A copy of `config` for a model that has the tokens with these ids, numbered anew from 0 in the same order.

    Raises InputError for ids that the model does not have, for a dropped token that the config names (as bos_token_id),
    and for an architecture that computes with the numbers of tokens.
    """
    from huggingface_hub.errors import StrictDataclassError

    values, count = config.to_dict(), config.vocab_size
    if tokens[-1] >= count:
        raise InputError(title(config), f"token {tokens[-1]} is selected", f"its tokens are 0 to {count - 1}")
    hashed = [name for name, value in values.items() if "ngram" in name and value]
    if hashed:
        what = f"its embeddings of n-grams are found by computing with token ids ({hashed[0]})"
        raise InputError(title(config), what, _REMEDY)
    sizes = _sizes(config)
    if sizes.get(_PER_LAYER, count) <= tokens[-1] and tokens[0] > 0:
        what = f"tokens from {sizes[_PER_LAYER]} on take the per-layer embedding of token 0, which is not kept"
        raise InputError(title(config), what, "keep token 0")
    values |= {name: bisect_left(tokens, size) for name, size in sizes.items()}
    values |= _renumbered(values, tokens, count, title(config))
    try:
        return remade(config, values)
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        what = f"{config.model_type} refuses another vocabulary: {error}"
        raise InputError(title(config), what, _REMEDY) from None


def renumbered(generation: "GenerationConfig", tokens: Indices, count: int) -> "GenerationConfig":
    """Settings for generation with the new ids of the `tokens` that are kept of `count`; see `with_vocabulary`.

    Raises InputError where they name a dropped token.
    """
    fields = generation.to_dict()
    return type(generation).from_dict(fields | _renumbered(fields, tokens, count, "generation_config"))


def named_tokens(config: "PretrainedConfig", generation: "GenerationConfig | None" = None) -> frozenset[int]:
    """The ids of the tokens that a model's config and its settings for generation name, which therefore must stay."""
    fields = [config.to_dict(), {} if generation is None else generation.to_dict()]
    values = [value for one in fields for name, value in one.items() if _TOKEN.search(name)]
    listed = [each for value in values for each in (value if isinstance(value, list | tuple) else [value])]
    return frozenset(each for each in listed if _is_id(each, config.vocab_size))


def vocabulary_indices(
    source: "PreTrainedModel", target: "PreTrainedModel", tokens: Indices
) -> dict[str, tuple[Runs, ...]]:  # fmt: skip
    """For every tensor of `target`, a model with only these `tokens` of `source`: the indices along each dimension.

    Both may be on the meta device; `target.config` is `with_vocabulary(source.config, tokens)`. Which dimensions are
    those of tokens is seen by building the source with more of them.

    Raises InputError for a dimension whose parts are not known.
    """
    config, shapes = source.config, tensor_shapes(source)
    result: dict[str, list[Runs]] = {name: [((0, size),) for size in shape] for name, shape in shapes.items()}
    for field, size in _sizes(config).items():
        larger = remade(config, config.to_dict() | {field: size + _STEP})
        grown = tensor_shapes(build_skeleton(larger, source.is_remote_code()))
        kept = as_runs(tokens[: bisect_left(tokens, size)])
        for name, shape in shapes.items():
            for at, (before, after) in enumerate(zip(shape, grown.get(name, ()), strict=True)):
                if after != before:
                    if after != before + _STEP or before < size:
                        what = f"{name}: dimension {at} ({before}) is not one of {size} tokens"
                        raise InputError(title(config), what, _REMEDY)
                    result[name][at] = joined([*kept, (size, before)])  # rows of other kinds follow the tokens
    for name, shape in tensor_shapes(target).items():
        if name not in result or lengths(result[name]) != shape:
            raise InputError(title(config), f"{name} does not shrink with the vocabulary", _REMEDY)
    return {name: tuple(runs) for name, runs in result.items()}


def _sizes(config: "PretrainedConfig") -> dict[str, int]:
    """The fields that count tokens."""
    values = config.to_dict()
    names = [config.attribute_map.get(name, name) for name in _SIZES]
    return {name: values[name] for name in names if isinstance(values.get(name), int) and values[name] > 0}


def _renumbered(fields: dict[str, Any], tokens: Indices, count: int, place: str) -> dict[str, Any]:
    """The fields that name tokens, with new ids. An id beyond the `count` tokens names nothing, and stays."""
    number = {token: new for new, token in enumerate(tokens)}

    def new(name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [new(name, one) for one in value]
        if not _is_id(value, count):
            return value
        if value not in number:
            raise InputError(place, f"{name} is token {value}, which is not kept", f"keep token {value}")
        return number[value]

    changed: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            continue
        if name in _UNSUPPORTED:
            raise InputError(place, f"has {name}, whose tokens cannot be numbered anew", f"remove {name}")
        if name in _AVOIDED:
            changed[name] = [number[one] for one in value if one in number] or None
        elif _TOKEN.search(name):
            changed[name] = new(name, value)
    return changed


def _is_id(value: Any, count: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < count
