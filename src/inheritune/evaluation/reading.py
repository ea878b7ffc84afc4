"""The same text for models with different tokenizers: what each model predicts of it, and how many bytes that is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from inheritune.data import (
    IGNORED,
    Array,
    ChatTemplate,
    Clusters,
    Encoder,
    Examples,
    MarkedTokens,
    Packing,
    Rendered,
    Rows,
    Sequences,
    clusters_of,
    segments_of,
    separator,
    special_ids,
)
from inheritune.errors import InputError
from inheritune.evaluation.judging import cluster_sums
from inheritune.evaluation.statistics import ratio
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reading:
    """A text as one model reads it.

    The validation loss counts every predicted token, the ends of documents too; the bits per byte count only text.
    `bytes` is the size of the predicted text in UTF-8. `shares` are the bytes of each cluster by its tokens, for the
    standard error only. `unknown` counts tokens that stand for text which the tokenizer cannot spell. `not_text` are
    tokens that only separate texts or turns.
    """

    sequences: Sequences | Rows
    packing: Packing
    clusters: Clusters
    bytes: int
    shares: tuple[int, ...] = ()
    unknown: int = 0
    not_text: tuple[int, ...] = ()


def read_text(
    texts: Iterable[str], tokenizer: "PreTrainedTokenizerBase", packing: Packing, length: int, place: str,
    origins: Sequence[Sequence[int]] | None = None,
) -> Reading:  # fmt: skip
    """Documents in sequences of `length` predicted tokens; the last sequence may be shorter.

    An end-of-text token separates documents. The sequences are those of `Sequences` with the same tokens, so a text
    has the same loss as in prepared data. `origins` are those of the texts, as `clusters_of` has them. Raises
    InputError where there is no text, and for a tokenizer without end-of-text.
    """
    end, encoder = separator(tokenizer, place), Encoder(tokenizer)
    stream: list[int] = []
    size = 0
    for text in texts:
        stream += [*encoder.encode([text])[0], end]
        size += len(text.encode())
    if not size:
        raise InputError(place, "no text there", "give files or folders that have some")
    del stream[-1]
    context = packing.context
    count = -(-(len(stream) - context) // length)
    if not count:
        raise InputError(place, f"a text of {len(stream)} token, which follows on nothing", "give more text")
    padded = np.full(context + count * length, IGNORED, np.int64)
    padded[: len(stream)] = stream
    rows = Rows(padded[np.arange(count)[:, None] * length + np.arange(context + length)], packing)
    size -= sum(len(_decode(np.asarray([token]), tokenizer).encode()) for token in stream[:context] if token != end)
    unknown = tokenizer.unk_token_id
    unspelt = int(np.count_nonzero(rows.predicted == unknown)) if unknown not in (None, end) else 0
    packing = replace(packing, end_of_text=end)
    rows = replace(rows, packing=packing)
    clusters = clusters_of(rows, origins)
    return Reading(rows, packing, clusters, size, _shares(rows, clusters, tokenizer, (end,)), unspelt, (end,))


def read_conversations(
    template: ChatTemplate, conversations: Sequence[Rendered], tokenizer: "PreTrainedTokenizerBase", packing: Packing,
    length: int, place: str,
) -> Reading:  # fmt: skip
    """Conversations in sequences of `length` predicted tokens; a longer one goes on in the next sequence.

    The bytes are those of the counted text without special tokens. Raises InputError where there is no text.
    """
    if not conversations:
        raise InputError(place, "no text there", "give files or folders that have some")
    encoded = template.encode(conversations)
    tokens = np.concatenate([np.asarray(ids, np.int64) for ids, _ in encoded])
    marks = np.concatenate([own for _, own in encoded])
    packing = replace(packing, prefix=(), long_conversations="split")
    return read_tokens(Sequences(MarkedTokens(tokens, marks), length, place, packing=packing), tokenizer)


def read_tokens(
    sequences: Sequences, tokenizer: "PreTrainedTokenizerBase | None", origins: Sequence[Sequence[int]] | None = None
) -> Reading:
    """Sequences of prepared data, for a model with the tokenizer that made them. Without one, bytes are unknown (0).

    `origins` are those of the data's validation documents.
    """
    clusters = clusters_of(sequences, origins)
    if tokenizer is None:
        return Reading(sequences, sequences.packing, clusters, 0)
    end = separator(tokenizer, "data")
    packing = replace(sequences.packing, end_of_text=end)
    if sequences.placement is not None:
        special = special_ids(tokenizer)
        shares = _shares(sequences, clusters, tokenizer, special)
        return Reading(sequences, packing, clusters, sum(shares), shares, not_text=special)
    size = sum(len(text.encode()) for text in predicted_texts(sequences, tokenizer).values())
    shares = _shares(sequences, clusters, tokenizer, (end,))
    return Reading(sequences, packing, clusters, size, shares, not_text=(end,))


def predicted_texts(sequences: Sequences, tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """The documents in the predicted tokens of sequences, by their numbers, without empty ones.

    `tokenizer` made the tokens. The texts are for models with other tokenizers.
    """
    end = separator(tokenizer, "data")
    tokens = sequences.rows(range(sequences.count)).predicted.reshape(-1)
    parts = np.split(tokens, np.flatnonzero(tokens == end) + 1)
    texts = (_decode(part[(part != end) & (part >= 0)], tokenizer) for part in parts)
    return {number: text for number, text in enumerate(texts) if text}


def score(
    reading: Reading, losses_of: Callable[[Examples], torch.Tensor], runtime: Runtime, micro_batch: int
) -> tuple[dict[str, float | None], int]:
    """The fields that a text has in an `EvaluatedModel`, and the number of predicted tokens.

    `losses_of` gives the losses of targets in nats, (B, T). Several processes share the sequences, and each has the
    result. The perplexity is None where it is beyond a float. Raises RunError for a loss that is not finite.
    """
    not_text = torch.tensor(reading.not_text, device=runtime.device, dtype=torch.long)

    def figures_of(examples: Examples) -> torch.Tensor:
        losses_BT, counts_BT = losses_of(examples), examples.targets != IGNORED
        is_text_BT = counts_BT & ~torch.isin(examples.targets, not_text)
        return torch.stack([losses_BT, counts_BT.to(losses_BT.dtype), torch.where(is_text_BT, losses_BT, 0.0)], dim=-1)

    sums_C3 = cluster_sums(figures_of, reading.sequences, reading.clusters, runtime, micro_batch)[0]
    sums, counts, text_sums = sums_C3.T.tolist()
    loss = ratio(sums, counts)
    bits = None
    if reading.bytes:
        bits = ratio([total / math.log(2) for total in text_sums], reading.shares, reading.bytes)
    return {
        "val_loss": loss.value,
        "val_loss_se": loss.error,
        "perplexity": math.exp(loss.value) if loss.value < 700 else None,
        "bits_per_byte": None if bits is None else bits.value,
        "bits_per_byte_se": None if bits is None else bits.error,
    }, round(math.fsum(counts))


def _shares(
    text: Sequences | Rows, clusters: Clusters, tokenizer: "PreTrainedTokenizerBase", not_text: Sequence[int]
) -> tuple[int, ...]:
    """The bytes of each cluster's text; a character that is cut in two counts a little more or less."""
    sizes = [0] * len(clusters.tokens)
    for number in range(text.count):
        rows = text.rows([number])
        tokens, segments_L = rows.predicted[0], segments_of(rows)[0]
        parts = np.split(tokens, np.flatnonzero(np.diff(segments_L)) + 1)
        for segment, part in enumerate(parts, int(clusters.first_N[number]) + int(segments_L[0])):
            kept = part[(part >= 0) & ~np.isin(part, not_text)]
            if len(kept):
                sizes[clusters.of_segment_S[segment]] += len(_decode(kept, tokenizer).encode())
    return tuple(sizes)


def _decode(tokens: Array, tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))
