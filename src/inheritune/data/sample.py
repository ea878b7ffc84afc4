"""A few sequences out of text or prepared data, evenly spread, to look at models with."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inheritune.data.sequences import Packing, Rows, Sequences
from inheritune.data.sources.inputs import list_inputs
from inheritune.data.sources.reading import read
from inheritune.data.tokenizer import Encoder, prefix_tokens
from inheritune.errors import InputError
from inheritune.recipe import Source, check

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENOUGH = 20  # times the tokens asked for are read: more text is not looked at
_LONGEST = 16  # characters of a token: of a very long document no more is tokenised than can be needed


def sample(sequences: Sequences, count: int, place: str, or_fewer: bool = False) -> Rows:
    """`count` sequences spread evenly over all.

    Where there are fewer: with `or_fewer` all of them, else InputError.
    """
    if or_fewer:
        count = min(count, sequences.count)
    if count > sequences.count:
        length = sequences.sequence_length
        what = f"{count} sequences of {length} tokens asked for, the text has {sequences.count}"
        raise InputError(place, what, f"give more text, or ask for at most {sequences.count}")
    return sequences.rows([number * sequences.count // count for number in range(count)])


def documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """The documents in files, folders, patterns or addresses, in their order. Raises InputError for what is no text."""
    sources = [check(Source, {"path": str(path)}, "text") for path in paths]
    try:
        for one in list_inputs(sources):
            for document in read(one, sources[one.source], lambda place, reason: None, seed=0):
                yield document.text
    except InputError as error:  # it may advise keys that only a recipe's sources have
        raise InputError.of(
            [replace(problem, remedy=_without_recipe(problem.remedy)) for problem in error.problems]
        ) from None


def _without_recipe(remedy: str) -> str:
    if "source's" not in remedy and "`" not in remedy:
        return remedy
    return f"{remedy} (`inheritune prepare` has these as options; give its folder as data in place of the text)"


def sample_text(
    paths: Sequence[str | Path],
    tokenizer: "PreTrainedTokenizerBase",
    count: int,
    sequence_length: int,
    or_fewer: bool = False,
    prefix: str = "auto",
) -> Rows:
    """`count` sequences of `sequence_length` predicted tokens out of files, folders, patterns or addresses.

    In front of each stands what the tokenizer puts in front of a text, unless `prefix` is `none`. Documents are put
    behind each other, an end-of-text token (where the tokenizer has one) behind each; the sequences are spread evenly
    over them, or over the first part of a large text, twenty times as long as they. Raises InputError for text that
    cannot be read, and where it is too short (with `or_fewer`: for one sequence).
    """
    encoder, end = Encoder(tokenizer), tokenizer.eos_token_id
    wanted = count * sequence_length * _ENOUGH
    tokens: list[int] = []
    for text in documents(paths):
        tokens += encoder.encode([text[: wanted * _LONGEST]])[0]
        if isinstance(end, int):
            tokens.append(end)
        if len(tokens) > wanted:
            break
    place = ", ".join(str(path) for path in paths)
    packing = Packing(() if prefix == "none" else prefix_tokens(tokenizer), end if isinstance(end, int) else None)
    if len(tokens) < sequence_length + packing.context:
        what = f"{len(tokens)} tokens, and one sequence takes {sequence_length + packing.context}"
        raise InputError(place, what, "give more text, or a smaller --length")
    sequences = Sequences(np.asarray(tokens, np.int64), sequence_length, place, packing=packing)
    return sample(sequences, count, place, or_fewer)
