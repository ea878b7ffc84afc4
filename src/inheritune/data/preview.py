"""Prepared documents as the model will see them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.prepared import Prepared
from inheritune.data.shards import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK = 65_536  # tokens read at once
_SHOWN = 600  # characters of a long document, half of them from its end


def preview(prepared: Prepared, documents: int, tokenizer: "PreTrainedTokenizerBase") -> Iterator[dict[str, Any]]:
    """Documents from all over the training text: `tokens`, their number, and `text`, decoded from them.

    The first one, and those that begin behind equal shares of the tokens, so that every source of some weight is seen.
    Special tokens are spelt out; the middle of a long document is left out. Raises RunError for a file that is gone.
    """
    row, end = prepared.tokens("train"), prepared.end_of_text
    shares = range(1, documents)
    starts = {0, *(_document_end(row, len(row) * share // documents, end) for share in shares)}
    for start in sorted(starts - {len(row)}):
        stop = _document_end(row, start, end)
        text = tokenizer.decode(row.read(start, stop - start).tolist(), skip_special_tokens=False)
        yield {"tokens": stop - start, "text": _shortened(text)}


def _document_end(row: Tokens, start: int, end: int) -> int:
    """The first place behind an end-of-text token from `start` on; the end of all where none follows."""
    for at in range(start, len(row), _BLOCK):
        found = np.flatnonzero(row.read(at, min(_BLOCK, len(row) - at)) == end)
        if len(found):
            return at + int(found[0]) + 1
    return len(row)


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]}\n[... {len(text) - _SHOWN:,} characters ...]\n{text[-half:]}"
