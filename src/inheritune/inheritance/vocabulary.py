"""A smaller vocabulary: the tokens that a text needs, and the reference with these tokens only."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inheritune.arch import (
    Indices,
    Selection,
    TokenParts,
    check_tokenizer_fits,
    find_tokenizer,
    layer_count,
    load_config,
    load_generation_config,
    named_tokens,
    parameter_count,
    save_model,
    title,
    trim_tokenizer,
)
from inheritune.card import origin_of_model
from inheritune.data import Encoder
from inheritune.errors import InputError
from inheritune.inheritance.derivation import derive, free_output
from inheritune.inheritance.target import TargetSpec
from inheritune.recipe import Reference, model_at
from inheritune.token_ids import vocabulary_size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY = "vocabulary.json"
"""The file beside a model with a smaller vocabulary: the reference's ids of its tokens (`kept`), of how many (`of`)."""
_BATCH = 256  # texts


@dataclass(frozen=True)
class TrimmedVocabulary:
    """What became of a reference's vocabulary."""

    kept: Indices
    """The reference's ids of the tokens that stay, in the order of their new ids."""
    of: int
    """The reference's tokens."""
    parameters: int
    """Those of the model that was written."""


def trim_vocabulary(
    reference: "str | Path | Reference | PreTrainedModel", texts: Iterable[str], size: int | None = None, *,
    tokenizer: "PreTrainedTokenizerBase | None" = None, dtype: "torch.dtype | None" = None, out: str | Path,
) -> TrimmedVocabulary:  # fmt: skip
    """Write the reference with the tokens that `texts` need, or `size` tokens, and its tokenizer with these, to `out`.

    The result is a Hugging Face checkpoint, with the tokens that were kept in vocabulary.json. Every kept token has its
    logit as before, and a text that needs no others is split as before. A loaded model needs its `tokenizer`.
    See `needed_tokens` for the choice. `dtype` is as in `inherit`.

    Raises InputError as `needed_tokens` does, for an architecture that cannot lose tokens, and when `out` exists.
    """
    with ExitStack() as held:
        folder = held.enter_context(free_output(Path(out)))
        if isinstance(reference, str | Path):
            reference = model_at(reference)
        if tokenizer is None and isinstance(reference, Reference):
            tokenizer = find_tokenizer(reference, log=True)
        if tokenizer is None:
            raise InputError(title(reference)[0], "comes without a tokenizer", "give the tokenizer")
        config = load_config(reference) if isinstance(reference, Reference) else reference.config
        kept = tokens_for(reference, tokenizer, texts, size)
        trimmed = trim_tokenizer(tokenizer, kept)
        blocks = tuple(range(layer_count(config)))
        model, _ = derive(reference, TargetSpec(blocks, width=Selection(vocabulary=kept)), dtype=dtype)
        notes = {VOCABULARY: {"kept": list(kept), "of": config.vocab_size}} | origin_of_model(reference).files
        save_model(model, trimmed, folder, notes)
    return TrimmedVocabulary(kept, config.vocab_size, parameter_count(model))


def tokens_for(
    reference: "Reference | PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str],
    size: int | None = None,
) -> Indices:  # fmt: skip
    """As `needed_tokens`, with those that the reference's config and settings for generation name."""
    if isinstance(reference, Reference):
        config, generation = load_config(reference), load_generation_config(reference)
    else:
        config, generation = reference.config, reference.generation_config
    check_tokenizer_fits(tokenizer, config, title(reference)[0])
    named = named_tokens(config, generation)
    return needed_tokens(tokenizer, texts, size, named=named, rows=config.vocab_size)


def needed_tokens(
    tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str], size: int | None = None, *,
    named: Iterable[int] = (), rows: int | None = None,
) -> Indices:  # fmt: skip
    """The ids of the tokens that `texts` need, rising: with them alone the texts are split as before.

    Always kept are bytes, single characters where no bytes stand in for them, special and added tokens but those that
    are reserved for later use, what the chat template writes, and the `named` ones (see `named_tokens`). With `size`,
    so many tokens are kept: the most frequent ones with what merges need on the way to them, and where the texts need
    fewer, those with the lowest ids, which tokenizers learn first. Tokens from `rows` on are dropped, as the model has
    no rows for them.

    Raises InputError for a size that is too small, or not below the number of tokens, and for a tokenizer that
    cannot lose tokens.
    """
    parts = TokenParts(tokenizer)
    count = min(vocabulary_size(tokenizer), rows or vocabulary_size(tokenizer))
    always = {token for token in parts.always if token < count} | set(named)
    if size is not None and not len(always) <= size < count:
        what = f"{size:,} tokens are asked for"
        raise InputError("vocabulary", what, f"legal are {len(always):,} (bytes, special tokens ...) to {count - 1:,}")
    frequency = _frequencies(tokenizer, texts, count)
    order = sorted(range(count), key=lambda token: (-frequency[token], token))
    kept, usual = set(always), parts.ids - parts.reserved
    for token in order:
        if len(kept) == size or (size is None and not frequency[token]):
            break
        if token in usual:
            wanted = sorted(parts.of(token) - kept, key=lambda part: len(parts.of(part)))  # as merges make them
            kept.update(wanted if size is None else wanted[: size - len(kept)])
    return tuple(sorted(kept))


def _frequencies(tokenizer: "PreTrainedTokenizerBase", texts: Iterable[str], count: int) -> list[int]:
    """How often each token occurs."""
    encoder, sums, rest = Encoder(tokenizer), np.zeros(count, np.int64), iter(texts)
    while some := list(islice(rest, _BATCH)):
        ids = [np.asarray(one, np.int64) for one in encoder.encode(some)]
        sums += np.bincount(np.concatenate(ids), minlength=count)[:count]
    listed: list[int] = sums.tolist()
    return listed
