"""Samples of prepared data: sequences spread evenly over it, and documents as a model sees them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.conversations import BEGINS
from inheritune.data.prepared import Prepared
from inheritune.data.sequences import Rows, Sequences
from inheritune.data.shards import Tokens
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK = 65_536  # tokens read at once
_SHOWN = 600  # characters of a long document, half of them from its end


def sample(sequences: Sequences, count: int, place: str, or_fewer: bool = False) -> Rows:
    """`count` sequences spread evenly over all. Where there are fewer: with `or_fewer` all, else InputError."""
    if count > sequences.count and not or_fewer:
        length = sequences.sequence_length
        what = f"{count} sequences of {length} tokens asked for, the text has {sequences.count}"
        raise InputError(place, what, f"give more text, or ask for at most {sequences.count}")
    count = min(count, sequences.count)
    return sequences.rows([number * sequences.count // count for number in range(count)])


def preview(prepared: Prepared, documents: int, tokenizer: "PreTrainedTokenizerBase") -> Iterator[dict[str, Any]]:
    """Documents from all over the training text: the number of their `tokens`, and their decoded `text`.

    They are the first one and those that begin after equal shares of the tokens, so larger sources are all shown.
    Special tokens are spelt out; the middle of a long document is cut out. Raises RunError for a missing file.
    """
    row, end = prepared.tokens("train"), prepared.end_of_text

    def after(place: int) -> int:
        return _document_end(row, place, end) if row.marks is None else _next_begin(row.marks, place + 1)

    starts = {0, *(after(len(row) * share // documents) for share in range(1, documents))}
    for start in sorted(starts - {len(row)}):
        stop = after(start)
        text = tokenizer.decode(row.read(start, stop - start).tolist(), skip_special_tokens=False)
        if len(text) > _SHOWN:
            half = _SHOWN // 2
            text = f"{text[:half]}\n[... {len(text) - _SHOWN:,} characters ...]\n{text[-half:]}"
        yield {"tokens": stop - start, "text": text}


def _next_begin(marks: Tokens, start: int) -> int:
    """The first conversation from `start` on; the end of all tokens where none follows."""
    for at in range(start, len(marks), _BLOCK):
        begins = np.flatnonzero(marks.read(at, min(_BLOCK, len(marks) - at)) & BEGINS)
        if len(begins):
            return at + int(begins[0])
    return len(marks)


def _document_end(row: Tokens, start: int, end: int) -> int:
    """The first place after an end-of-text token from `start` on; the end of all tokens where none follows."""
    for at in range(start, len(row), _BLOCK):
        ends = np.flatnonzero(row.read(at, min(_BLOCK, len(row) - at)) == end)
        if len(ends):
            return at + int(ends[0]) + 1
    return len(row)
