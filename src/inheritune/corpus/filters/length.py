"""The filter `length`: limits on the characters and words of a document."""

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from inheritune.corpus.filters.base import Count, Document, DocumentFilter, Steps, Words


class DocumentLength(DocumentFilter):
    """Keeps documents of some lengths, both ends included."""

    filter: Literal["length"] = "length"
    """The filter's name."""
    min_characters: Count | None = None
    """Fewest characters; null: off."""
    max_characters: Count | None = None
    """Most characters; null: off."""
    min_words: Count | None = None
    """Fewest words and punctuation marks; null: off."""
    max_words: Count | None = None
    """Most words and punctuation marks; null: off."""
    language: Words = "en"

    @model_validator(mode="after")
    def _possible(self) -> Self:
        ends = (self.min_characters, self.max_characters), (self.min_words, self.max_words)
        if not any(limit is not None for pair in ends for limit in pair):
            raise ValueError("no limit is given; give min_characters, max_characters, min_words or max_words")
        for unit, (least, most) in zip(("characters", "words"), ends, strict=True):
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{unit} {least} is above max_{unit} {most}; nothing would be kept")
        return self

    @property
    def splits_words(self) -> bool:
        """Only with a limit on words."""
        return self.min_words is not None or self.max_words is not None

    def steps(self, work: Path) -> Steps:
        """One function of the two limits."""
        from datatrove.pipeline.filters import LambdaFilter
        from datatrove.utils.text import split_into_words

        def fits(document: Document) -> tuple[bool, str]:
            characters = len(document.text)
            reason = _outside(characters, self.min_characters, self.max_characters, "characters")
            if not reason and self.splits_words:
                words = len(split_into_words(document.text, self.language))
                reason = _outside(words, self.min_words, self.max_words, "words")
            return not reason, reason

        yield LambdaFilter(fits)


def _outside(count: int, least: int | None, most: int | None, unit: str) -> str:
    if least is not None and count < least:
        return f"too few {unit}"
    return f"too many {unit}" if most is not None and count > most else ""
