"""The same text for models with different tokenizers: what each model predicts of it, and how many bytes that is."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from inheritune.data import IGNORED, Array, Encoder, Examples, Packing, Rows, Sequences, separator
from inheritune.errors import InputError
from inheritune.evaluation.judging import Mean, check_finite, mean, score_rows
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Reading:
    """A text as one model reads it.

    The validation loss counts every predicted token, the ends of documents too; the bits per byte count only text.
    `bytes` is the size of the predicted text in UTF-8. `shares` are the bytes of each sequence by its tokens, for the
    standard error only. `unknown` counts tokens that stand for text which the tokenizer cannot spell.
    """

    sequences: Sequences | Rows
    packing: Packing
    bytes: int
    shares: tuple[int, ...] = ()
    unknown: int = 0


def read_text(
    texts: Iterable[str], tokenizer: "PreTrainedTokenizerBase", packing: Packing, length: int, place: str
) -> Reading:
    """Documents in sequences of `length` predicted tokens; the last sequence may be shorter.

    An end-of-text token separates documents. The sequences are those of `Sequences` with the same tokens, so a text
    has the same loss as in prepared data. Raises InputError where there is no text, and for a tokenizer
    without end-of-text.
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
    return Reading(rows, packing, size, _shares(rows, tokenizer, end), unspelt)


def read_tokens(sequences: Sequences, tokenizer: "PreTrainedTokenizerBase | None") -> Reading:
    """Sequences of prepared data, for a model with the tokenizer that made them. Without one, bytes are unknown (0)."""
    if tokenizer is None:
        return Reading(sequences, sequences.packing, 0)
    end = separator(tokenizer, "data")
    size = sum(len(text.encode()) for text in predicted_texts(sequences, tokenizer))
    return Reading(sequences, replace(sequences.packing, end_of_text=end), size, _shares(sequences, tokenizer, end))


def predicted_texts(sequences: Sequences, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The documents in the predicted tokens of sequences, which `tokenizer` made, for models with other tokenizers."""
    end = separator(tokenizer, "data")
    tokens = sequences.rows(range(sequences.count)).predicted.reshape(-1)
    parts = np.split(tokens, np.flatnonzero(tokens == end) + 1)
    texts = [_decode(part[(part != end) & (part >= 0)], tokenizer) for part in parts]
    return [text for text in texts if text]


def score(
    reading: Reading, losses_of: Callable[[Examples], torch.Tensor], runtime: Runtime, micro_batch: int
) -> tuple[dict[str, float | None], int]:
    """The fields that a text has in an `EvaluatedModel`, and the number of predicted tokens.

    `losses_of` gives the losses of targets in nats, (B, T). Several processes share the sequences, and each has the
    result. The perplexity is None where it is beyond a float. Raises RunError for a loss that is not finite.
    """
    end = reading.packing.end_of_text

    def figures_of(examples: Examples) -> torch.Tensor:
        losses_BT, counts_BT = losses_of(examples).double(), examples.targets != IGNORED
        is_text_BT = counts_BT if end is None else counts_BT & (examples.targets != end)
        sums = [torch.where(mask, losses_BT, 0.0).sum(dim=1) for mask in (counts_BT, is_text_BT)]
        return torch.stack([sums[0], counts_BT.sum(dim=1).double(), sums[1]], dim=1)

    rows = score_rows(reading.sequences, figures_of, runtime, micro_batch)
    sums, counts, text_sums = zip(*rows, strict=True)
    check_finite(sums)
    losses = [total / count if count else 0.0 for total, count in zip(sums, counts, strict=True)]
    loss = mean(losses) if len(set(counts)) == 1 else ratio(sums, counts)
    bits = None
    if reading.bytes:
        bits = ratio([total / math.log(2) for total in text_sums], reading.shares, reading.bytes)
    return {
        "val_loss": loss.value,
        "val_loss_se": loss.error,
        "perplexity": math.exp(loss.value) if loss.value < 700 else None,
        "bits_per_byte": None if bits is None else bits.value,
        "bits_per_byte_se": None if bits is None else bits.error,
    }, int(sum(counts))


def ratio(values: Sequence[float], sizes: Sequence[float], total: float | None = None) -> Mean:
    """The sum of `values` over that of `sizes` (or over `total`), and its standard error over independent pairs.

    Source: Cochran, Sampling techniques, 1977, section 2.11 (the ratio estimate); with equal sizes it is the mean's.
    """
    count, size = len(values), math.fsum(sizes)
    value = math.fsum(values) / (size if total is None else total)
    if count < 2 or not size:
        return Mean(value, None)
    slope = math.fsum(values) / size
    squares = math.fsum((one - slope * its) ** 2 for one, its in zip(values, sizes, strict=True))
    return Mean(value, math.sqrt(squares * count / (count - 1)) / size)


def _shares(text: Sequences | Rows, tokenizer: "PreTrainedTokenizerBase", end: int) -> tuple[int, ...]:
    """The bytes of each sequence's text; a character that is cut in two counts a little more or less."""
    sizes = []
    for number in range(text.count):
        tokens = text.rows([number]).predicted[0]
        sizes.append(len(_decode(tokens[(tokens != end) & (tokens >= 0)], tokenizer).encode()))
    return tuple(sizes)


def _decode(tokens: Array, tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))
