"""The same text for models with different tokenizers: what each of them predicts of it, and how many bytes that is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from inheritune.arch import load_tokenizer
from inheritune.data import IGNORED, Array, Encoder, Prepared, Sequences, separator
from inheritune.errors import InputError
from inheritune.evaluation.judging import Mean, check_finite, mean
from inheritune.recipe import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from transformers import PreTrainedTokenizerBase

    from inheritune.runtime import Runtime


class Rows(Protocol):
    """Sequences of T + 1 tokens, of which all but the first are predicted."""

    @property
    def count(self) -> int:
        """How many sequences there are."""

    def rows(self, numbers: Sequence[int]) -> Array:
        """The sequences of these numbers, (B, T + 1); what fills up a short one is IGNORED."""


@dataclass(frozen=True)
class Reading:
    """A text as one model reads it.

    The loss of a token counts for the bits per byte where it is text, and for the validation loss where it is text or
    `ends_count` and it is the end of a document. `bytes` are those of the text that is predicted, in UTF-8: the same
    for all models, as they are counted in the text. `shares` are the bytes of each sequence by its tokens, for the
    standard error alone. `unknown` tokens stand for text that the tokenizer cannot spell.
    """

    sequences: Rows
    end_of_text: int | None
    ends_count: bool
    bytes: int
    shares: tuple[int, ...] = ()
    unknown: int = 0


@dataclass(frozen=True)
class Score:
    """What a model makes of a text: its loss in nats a token, over `tokens` of them."""

    loss: Mean
    bits_per_byte: Mean | None
    tokens: int

    @property
    def perplexity(self) -> float | None:
        """Of a token: the exponential of the loss; None where that is beyond a float."""
        return math.exp(self.loss.value) if self.loss.value < 700 else None


def read_text(texts: Iterable[str], tokenizer: "PreTrainedTokenizerBase", length: int, place: str) -> Reading:
    """Documents cut into sequences of `length` tokens, so that every token of them is predicted exactly once.

    An end-of-text token stands between documents; it is seen and not judged. Each sequence begins with the token that
    the tokenizer puts before a text, or an end-of-text token where it puts none, and sees nothing of the sequence
    before. The last one may be shorter. Raises InputError where there is no text, and for a tokenizer without
    end-of-text.
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
    count = -(-len(stream) // length)
    rows_NT = np.full((count, length + 1), IGNORED, np.int64)
    rows_NT[:, 0] = _first_token(tokenizer, end)
    rows_NT[:, 1:].flat[: len(stream)] = stream
    unknown = tokenizer.unk_token_id
    unspelt = int(np.count_nonzero(rows_NT[:, 1:] == unknown)) if unknown not in (None, end) else 0
    return Reading(_Array(rows_NT), end, False, size, _shares(_Array(rows_NT), tokenizer, end), unspelt)


def read_tokens(sequences: Sequences, tokenizer: "PreTrainedTokenizerBase | None") -> Reading:
    """Sequences of prepared data, for a model with the tokenizer that made them: those of a run.

    Ends of documents count for the loss, as they do in a run. Without a tokenizer nothing is known of bytes.
    """
    if tokenizer is None:
        return Reading(sequences, None, True, 0)
    end = separator(tokenizer, "data")
    size = sum(len(text.encode()) for text in predicted_texts(sequences, tokenizer))
    return Reading(sequences, end, True, size, _shares(sequences, tokenizer, end))


def predicted_texts(sequences: Sequences, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """The documents in what sequences predict: all tokens but the first one and those that fill no sequence.

    `tokenizer` is the one that made them. This is what a model with another one is judged on.
    """
    end = separator(tokenizer, "data")
    tokens = sequences.rows(range(sequences.count))[:, 1:].reshape(-1)
    parts = np.split(tokens, np.flatnonzero(tokens == end) + 1)
    texts = [_decode(part[part != end], tokenizer) for part in parts]
    return [text for text in texts if text]


def tokenizer_of(prepared: Prepared) -> "PreTrainedTokenizerBase | None":
    """The tokenizer that is kept with prepared data; None where token files were opened where they are."""
    if not (prepared.folder / "tokenizer").is_dir() or prepared.manifest["tokenizer"] is None:
        return None
    return load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))


def score(
    reading: Reading, losses_of: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]", runtime: "Runtime",
    micro_batch: int,
) -> Score:  # fmt: skip
    """Loss and bits per byte of a text, from what gives the losses of tokens in nats, (B, T).

    Several processes share the sequences, and each has the result. Raises RunError for a loss that is not finite.
    """
    import torch

    rows = reading.sequences
    share = -(-rows.count // runtime.processes)
    mine = list(range(rows.count))[runtime.rank * share : (runtime.rank + 1) * share]
    found: list[list[float]] = []
    with torch.no_grad():
        for first in range(0, share, micro_batch):  # as many calls on every process, since sharded models meet in each
            numbers = mine[first : first + micro_batch]
            filled = numbers if runtime.processes == 1 else [*numbers, *[0] * (micro_batch - len(numbers))]
            tokens_BT = torch.from_numpy(rows.rows(filled)).to(runtime.device)
            inputs_BT, targets_BT = tokens_BT[:, :-1].clamp(min=0), tokens_BT[:, 1:]
            losses_BT = losses_of(inputs_BT, targets_BT).double()
            there_BT = targets_BT != IGNORED
            is_text_BT = there_BT if reading.end_of_text is None else there_BT & (targets_BT != reading.end_of_text)
            counts_BT = there_BT if reading.ends_count else is_text_BT
            sums = [torch.where(mask, losses_BT, 0.0).sum(dim=1) for mask in (counts_BT, is_text_BT)]
            figures_B3 = torch.stack([sums[0], counts_BT.sum(dim=1).double(), sums[1]], dim=1)
            found.extend(figures_B3.tolist()[: len(numbers)])
    return _score(reading, [row for part in runtime.gather(found) for row in part])


def score_figures(judged: Score) -> dict[str, Any]:
    """The keys that a score has in evaluation.json."""
    bits = judged.bits_per_byte
    return {
        "val_loss": judged.loss.value,
        "val_loss_se": judged.loss.error,
        "perplexity": judged.perplexity,
        "bits_per_byte": None if bits is None else bits.value,
        "bits_per_byte_se": None if bits is None else bits.error,
    }


def _score(reading: Reading, rows: Sequence[Sequence[float]]) -> Score:
    sums, counts, text_sums = zip(*rows, strict=True)
    check_finite(sums)
    losses = [total / count if count else 0.0 for total, count in zip(sums, counts, strict=True)]
    loss = mean(losses) if len(set(counts)) == 1 else ratio(sums, counts)
    bits = None
    if reading.bytes:
        bits = ratio([total / math.log(2) for total in text_sums], reading.shares, reading.bytes)
    return Score(loss, bits, int(sum(counts)))


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


@dataclass(frozen=True)
class _Array:
    """Sequences in memory, (N, T + 1)."""

    tokens: Array

    @property
    def count(self) -> int:
        return len(self.tokens)

    def rows(self, numbers: Sequence[int]) -> Array:
        return self.tokens[list(numbers)]


def _first_token(tokenizer: "PreTrainedTokenizerBase", end: int) -> int:
    before = tokenizer("a")["input_ids"]
    return int(before[0]) if before and before[0] == tokenizer.bos_token_id else end


def _shares(rows: Any, tokenizer: "PreTrainedTokenizerBase", end: int) -> tuple[int, ...]:
    """The bytes of each sequence: of its tokens' text, where a character cut in two counts a little more or less."""
    found = []
    for number in range(rows.count):
        tokens = rows.rows([number])[0, 1:]
        found.append(len(_decode(tokens[(tokens != end) & (tokens != IGNORED)], tokenizer).encode()))
    return tuple(found)


def _decode(tokens: Array, tokenizer: "PreTrainedTokenizerBase") -> str:
    return str(tokenizer.decode(tokens.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))
