"""Prepared documents as the model will see them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from inheritune.data.prepared import Prepared

_BLOCK = 65_536  # tokens read at once
_SHOWN = 600  # characters of a long document, half of them from its end


def preview(prepared: Prepared, documents: int) -> Iterator[dict[str, Any]]:
    """The first documents of the training text: `tokens`, their number, and `text`, decoded from them.

    Special tokens are spelt out; the middle of a long document is left out. Raises RunError for a file that is gone.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared.tokenizer_folder)
    row, end = prepared.tokens("train"), prepared.end_of_text
    start = at = 0
    while documents and at < len(row):
        block = row.read(at, min(_BLOCK, len(row) - at))
        ends = [*(at + np.flatnonzero(block == end) + 1).tolist()]
        at += len(block)
        if at == len(row) and (not ends or ends[-1] < at):
            ends.append(at)  # the last one is cut
        for stop in ends[:documents]:
            text = tokenizer.decode(row.read(start, stop - start).tolist(), skip_special_tokens=False)
            yield {"tokens": stop - start, "text": _shortened(text)}
            start = stop
            documents -= 1


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]}\n[... {len(text) - _SHOWN:,} characters ...]\n{text[-half:]}"
