"""Building models from configs: with random weights, or empty for weights to come."""

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inheritune.arch.loading import load_config, load_tokenizer, silence_libraries
from inheritune.arch.padding import draw_padding_rows, train_padding_rows
from inheritune.arch.structure import check_decoder, find_structure
from inheritune.arch.weights import Placement
from inheritune.errors import BUILD_ERRORS, InputError
from inheritune.limits import check_counts
from inheritune.recipe import NewTokenizer, Reference
from inheritune.vocabulary import vocabulary_size

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PLACE = "reference.train.model"
# Tables of learned positions.
_POSITION = re.compile(r"(^|[._])(wpe|embed_positions|positions?_embeddings?|pos_emb\w*)$")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def new_config(
    fields: dict[str, Any], vocabulary: int, special_tokens: dict[str, int | None], sequence_length: int
) -> "PretrainedConfig":
    """A config from a recipe's `reference.train.model`, for a tokenizer whose ids are below `vocabulary`.

    `special_tokens` are config fields such as eos_token_id; those not given are none.

    Raises InputError for an unknown model type or field.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    silence_libraries()
    check_counts(fields, _PLACE)
    fields = dict(fields)
    kind = fields.pop("model_type", None)
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING.keys()), n=3)
        raise InputError(
            f"{_PLACE}.model_type",
            f"transformers has no {kind!r}",
            f"for example {', '.join(near) or 'gpt2, llama'}",
        )
    config_class = CONFIG_MAPPING[kind]
    legal = set(config_class().to_dict()) | set(config_class.attribute_map)
    for name in fields:
        if name not in legal:
            near = difflib.get_close_matches(name, sorted(legal), n=3)
            raise InputError(_PLACE, f"{kind} has no field {name!r}", f"nearest: {', '.join(near) or 'none'}")
    if "vocab_size" in fields:
        raise InputError(f"{_PLACE}.vocab_size", "the tokenizer decides it", "take the key out")
    none = dict.fromkeys(_SPECIAL)
    try:
        config = config_class(**fields, vocab_size=vocabulary, **(none | special_tokens))
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        raise InputError(_PLACE, f"{kind} refuses it: {error}", "change the fields") from None
    check_decoder(config)
    check_positions(config, sequence_length, _PLACE)
    _try_out(config)
    return config


def _try_out(config: "PretrainedConfig") -> None:
    """Build the model without memory, so that what cannot be built or cut is found before any work is done."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except BUILD_ERRORS as error:
        raise InputError(_PLACE, f"{config.model_type} cannot be built: {error}", "change the fields") from None
    find_structure(model)
    _check_runs_without_padding(model)


def _check_runs_without_padding(model: "PreTrainedModel") -> None:
    """Raise InputError for an architecture that counts positions by padding (RoBERTa), where there is no such token."""
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
    except (RuntimeError, ValueError, AttributeError):  # code that looks at values, which a model without memory lacks
        return


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int | None]:
    """The fields of a config that say which entries of a tokenizer are special."""
    return {name: getattr(tokenizer, name) for name in _SPECIAL}


def planned_config(reference: Reference, sequence_length: int, *, weights: bool = True) -> "PretrainedConfig":
    """The config of a reference, be it stored or one that a recipe makes first (for sequences of that many tokens).
    `weights` says that those of a stored one must be there, too.

    Raises InputError as `load_config` and `new_config` do.
    """
    new = reference.train
    if new is None:
        return load_config(reference, weights=weights)
    if isinstance(new.tokenizer, NewTokenizer):
        return new_config(new.model, new.tokenizer.vocabulary, {}, sequence_length)
    tokenizer = load_tokenizer(Reference(path=new.tokenizer))
    return new_config(new.model, vocabulary_size(tokenizer), special_tokens(tokenizer), sequence_length)


def check_positions(config: "PretrainedConfig", sequence_length: int, place: str) -> None:
    """Raise InputError when sequences are longer than the positions that the model has."""
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < sequence_length:
        raise InputError(
            place,
            f"the model has {positions} positions, train.sequence_length is {sequence_length}",
            f"give at most {positions}",
        )


def has_position_table(model: "PreTrainedModel") -> bool:
    """Whether the model learns its positions in a table, so that it has no more of them than the config says."""
    import torch

    modules = model.named_modules()
    return any(isinstance(module, torch.nn.Embedding) and _POSITION.search(name) for name, module in modules)


def check_room(model: "PreTrainedModel", length: int) -> None:
    """Raise InputError for an input of `length` tokens to a model whose table of learned positions is shorter.

    Sequences in which documents begin are longer than others, by a prefix for each document.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if isinstance(positions, int) and length > positions and has_position_table(model):
        raise InputError(
            "sequence length",
            f"with the start tokens of its documents, a sequence takes {length} positions, the model has {positions}",
            f"shorten sequences by {length - positions} or more, or give attention: document, or prefix: none",
        )


def build_skeleton(config: "PretrainedConfig", trust_remote_code: bool = False) -> "PreTrainedModel":
    """The model without memory for its weights (on the meta device), ties made, in the config's dtype.

    Raises InputError when transformers cannot build a model of the config.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    with _refusals(config), torch.device("meta"):
        # building writes into the config that it is given, its dtype for one
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(config), dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    return model


@contextmanager
def _refusals(config: "PretrainedConfig") -> Iterator[None]:
    """What the code of an architecture says of a config that it cannot take, as InputError; lack of memory stays."""
    try:
        yield
    except BUILD_ERRORS as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if "Allocator" in reason or type(error).__name__ == "OutOfMemoryError":
            raise
        raise InputError(
            config.name_or_path or config.model_type,
            f"transformers cannot build a model of this config ({reason})",
            "mend the config's fields",
        ) from None


def build_random(
    config: "PretrainedConfig", seed: int, dtype: Any = None, trust_remote_code: bool = False
) -> "PreTrainedModel":
    """A model (float32 unless told) with weights initialised as its architecture does it, drawn with `seed`.

    Rows that the architecture keeps for padding, and starts at zero, are drawn like the others.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with _refusals(config), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype or torch.float32, trust_remote_code=trust_remote_code
        )
        draw_padding_rows(model)
    train_padding_rows(model)
    return model


def build_empty(config: "PretrainedConfig", dtype: Any, trust_remote_code: bool = False) -> "PreTrainedModel":
    """A model whose parameters are allocated but not initialised, ties made; every one of them must be filled."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with _refusals(config), no_init_weights():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    train_padding_rows(model)
    return model


def build_from(
    skeleton: "PreTrainedModel", placement: Placement, dtype: Any, given: "Mapping[str, torch.Tensor] | None" = None
) -> "PreTrainedModel":
    """The model of `skeleton` with stored tensors put in by transformers' own loader, which converts their names.

    `given` are tensors of the model by its own names, put in without a copy. What neither has is initialised as the
    architecture does it.
    """
    import torch

    with placement.opened() as tensors, _refusals(skeleton.config), torch.random.fork_rng(devices=[]):
        model, _ = type(skeleton).from_pretrained(
            None,
            config=skeleton.config,
            state_dict=tensors | dict(given or {}),
            dtype=dtype,
            output_loading_info=True,
            local_files_only=True,
        )
    found: PreTrainedModel = model
    train_padding_rows(found)
    return found
