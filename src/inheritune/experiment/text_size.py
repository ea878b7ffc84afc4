"""How much text a recipe or a suite has, as far as that shows before the text is read."""

import math
from dataclasses import dataclass

from inheritune.corpus import text_bytes
from inheritune.data import open_prepared, tokens_in, typed
from inheritune.errors import InputError
from inheritune.experiment.plan import token_files
from inheritune.recipe import Basis


@dataclass(frozen=True)
class TextSize:
    """Tokens of training text (None: not known) and of validation text.

    `estimated_from` are the bytes of the files that the training tokens were estimated from; None where they were not.
    """

    train: int | None
    validation: int
    estimated_from: int | None = None


def estimated_tokens(size: int, vocabulary: int) -> int:
    """About how many tokens a text of `size` bytes has: one for each log2(vocabulary) / 4 bytes."""
    return max(1, round(4 * size / math.log2(max(2, vocabulary))))


def text_size(basis: Basis, vocabulary: int) -> TextSize:
    """The size of a basis's text, from the recipe, a manifest or the sizes of files; `vocabulary` is the tokenizer's.

    Of files on this machine a token is taken to have log2(vocabulary) / 4 bytes: 3 with a vocabulary of 4,096, 3.9 with
    50,000, 4.5 with 262,144. Text elsewhere is not known. Reads no text. Raises InputError for text that is missing
    where the length of the training depends on it, and for prepared data that is damaged.
    """
    data, validation = basis.data, basis.data.validation.count
    if data.sources:
        if data.size is not None:
            return TextSize(data.size.count, validation)
        try:
            size = text_bytes(data.sources)
        except InputError:
            if basis.train.length.unit == "epochs":
                raise
            size = None  # a plan for another machine
        if size is None:
            return TextSize(None, validation)
        return TextSize(max(1, estimated_tokens(size, vocabulary) - validation), validation, size)
    files = token_files(data)
    if files is not None:
        try:
            train, validation = (sum(map(tokens_in, split)) for split in typed(files, vocabulary).values())
        except InputError:  # they are on another machine, or only the tokenizer shows their type
            return TextSize(None, data.validation.count)
        return TextSize(train, validation)
    assert data.prepared is not None  # the recipe's check
    if not data.prepared.exists():
        return TextSize(None, validation)
    prepared = open_prepared(data.prepared)
    return TextSize(len(prepared.tokens("train")), len(prepared.tokens("validation")))
