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
    Clusters,
    Encoder,
    Examples,
    Packing,
    Rows,
    Sequences,
    clusters_of,
    separator,
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
    standard error only. `unknown` counts tokens that stand for text which the tokenizer cannot spell.
    """

    sequences: Sequences | Rows
    packing: Packing
    clusters: Clusters
    bytes: int
    shares: tuple[int, ...] = ()
    unknown: int = 0


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
    return Reading(rows, packing, clusters, size, _shares(rows, clusters, tokenizer), unspelt)


def read_tokens(
    sequences: Sequences, tokenizer: "PreTrainedTokenizerBase | None", origins: Sequence[Sequence[int]] | None = None
) -> Reading:
    """Sequences of prepared data, for a model with the tokenizer that made them. Without one, bytes are unknown (0).

    `origins` are those of the data's validation documents.
    """
    clusters = clusters_of(sequences, origins)
    if tokenizer is None:
        return Reading(sequences, sequences.packing, clusters, 0)
    packing = replace(sequences.packing, end_of_text=separator(tokenizer, "data"))
    size = sum(len(text.encode()) for text in predicted_texts(sequences, tokenizer).values())
    return Reading(sequences, packing, clusters, size, _shares(sequences, clusters, tokenizer))


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
    end = reading.packing.end_of_text

    def figures_of(examples: Examples) -> torch.Tensor:
        losses_BT, counts_BT = losses_of(examples), examples.targets != IGNORED
        is_text_BT = counts_BT if end is None else counts_BT & (examples.targets != end)
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


def _shares(text: Sequences | Rows, clusters: Clusters, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The bytes of each cluster's text; a character that is cut in two counts a little more or less."""
    sizes = [0] * len(clusters.tokens)
    for number in range(text.count):
        tokens = text.rows([number]).predicted[0]
        segments = np.split(tokens, np.flatnonzero(tokens == clusters.end_of_text) + 1)
        for segment, part in enumerate(segments, int(clusters.first_N[number])):
            kept = part[(part != clusters.end_of_text) & (part >= 0)]
            if len(kept):
                sizes[clusters.of_segment_S[segment]] += len(_decode(kept, tokenizer).encode())
    return tuple(sizes)


def _decode(tokens: Array, tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))
