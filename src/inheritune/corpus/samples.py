"""The documents of any text, and sequences spread over it, for analyses and evaluations."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inheritune.corpus.sources.conversations import messages_key_of, raw_conversations
from inheritune.corpus.sources.inputs import Input, list_inputs
from inheritune.corpus.sources.reading import read
from inheritune.corpus.sources.storage import Damaged
from inheritune.corpus.sources.texts import Fault, Text
from inheritune.data import Conversation, Encoder, Packing, Rows, Sequences, prefix_tokens, sample
from inheritune.errors import InputError
from inheritune.recipe import Source, check

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ENOUGH = 20  # times the requested tokens are read; the rest of a text is ignored
_LONGEST = 16  # characters of a token, at most: a very long document is tokenised as far as it is needed
# Added to remedies that name the keys of a recipe's source, as there is no recipe here.
_KEYS = " (`inheritune prepare` has these as options; give its folder as data in place of the text)"


def documents(paths: Sequence[str | Path]) -> Iterator[str]:
    """The documents in files, folders, patterns or addresses, in their order. Raises InputError where it is no text."""
    with _in_words_of_options():
        sources = _sources(paths)
        for one in list_inputs(sources):
            yield from (document.text for document in _texts(one, sources[one.source]))


def contents(paths: Sequence[str | Path]) -> Iterator[tuple[str, str | Conversation]]:
    """The documents and conversations there, in their order, each with its place.

    A file has conversations where the first record has no `text`, but `messages` or another usual key of them. Raises
    InputError where there is neither.
    """
    with _in_words_of_options():
        sources = _sources(paths)
        for one in list_inputs(sources):
            try:
                key = messages_key_of(one)
                if key is None:
                    yield from ((document.place, document.text) for document in _texts(one, sources[one.source]))
                else:
                    source = sources[one.source].model_copy(update={"messages_key": key})
                    yield from raw_conversations(one, source, 0, Fault(source, lambda place, reason: None))
            except Damaged as error:
                raise InputError(one.address, error.what, error.remedy) from None


def _sources(paths: Sequence[str | Path]) -> list[Source]:
    return [check(Source, {"path": str(path)}, "text") for path in paths]


def _texts(one: Input, source: Source) -> Iterator[Text]:
    return read(one, source, lambda place, reason: None, seed=0)


@contextmanager
def _in_words_of_options() -> Iterator[None]:
    """Inside, remedies that name keys of a source say where these are options."""
    try:
        yield
    except InputError as error:
        problems = [
            replace(problem, remedy=problem.remedy + _KEYS) if re.search("source's|`", problem.remedy) else problem
            for problem in error.problems
        ]
        raise InputError.of(problems) from None


def sample_text(
    paths: Sequence[str | Path],
    tokenizer: "PreTrainedTokenizerBase",
    count: int,
    sequence_length: int,
    or_fewer: bool = False,
    prefix: str = "auto",
) -> Rows:
    """`count` sequences of `sequence_length` predicted tokens out of files, folders, patterns or addresses.

    Each begins with the tokenizer's prefix, unless `prefix` is `none`. Documents are joined, each followed by an
    end-of-text token (where the tokenizer has one). The sequences are spread evenly over the text; of a large text,
    only the first part is used, which is twenty times as long as the sequences. Raises InputError for text that cannot
    be read, and where it is too short (with `or_fewer`: for one sequence).
    """
    encoder, end = Encoder(tokenizer), tokenizer.eos_token_id
    end = end if isinstance(end, int) else None
    wanted = count * sequence_length * _ENOUGH
    tokens: list[int] = []
    for text in documents(paths):
        tokens += encoder.encode([text[: wanted * _LONGEST]])[0]
        tokens += [] if end is None else [end]
        if len(tokens) > wanted:
            break
    place = ", ".join(str(path) for path in paths)
    packing = Packing(() if prefix == "none" else prefix_tokens(tokenizer), end)
    if len(tokens) < sequence_length + packing.context:
        what = f"{len(tokens)} tokens, and one sequence takes {sequence_length + packing.context}"
        raise InputError(place, what, "give more text, or a smaller --length")
    sequences = Sequences(np.asarray(tokens, np.int64), sequence_length, place, packing=packing)
    return sample(sequences, count, place, or_fewer)
