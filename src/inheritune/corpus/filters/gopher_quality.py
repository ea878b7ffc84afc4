"""The filter `gopher_quality`: the quality rules of Gopher."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inheritune.corpus.filters.base import Count, DocumentFilter, Share, Steps, Words


class GopherQuality(DocumentFilter):
    """The quality rules of Gopher (Rae et al., 2021, appendix A1.1). null switches a rule off."""

    filter: Literal["gopher_quality"] = "gopher_quality"
    """The filter's name."""
    min_words: Count = 50
    """The smallest number of words. Symbols alone do not count."""
    max_words: Count | None = 100_000
    """The largest number of words. Symbols alone do not count."""
    min_word_length: Count | None = 3
    """Smallest mean length of a word, in characters."""
    max_word_length: Count | None = 10
    """Largest mean length of a word, in characters."""
    max_symbols: Share | None = 0.1
    """Most `#`, and most ellipses, per word."""
    max_bullet_lines: Share | None = 0.9
    """Largest share of lines that begin with a bullet point."""
    max_ellipsis_lines: Share | None = 0.3
    """Largest share of lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = 0.8
    """Smallest share of words with a letter in them."""
    min_stop_words: Count | None = 2
    """Fewest different words of `stop_words`."""
    stop_words: Annotated[list[str], Field(min_length=1)] | None = None
    """The stop words, in lower case. Default: the, be, to, of, and, that, have, with."""
    language: Words = "en"

    @model_validator(mode="after")
    def _stop_words_of_the_language(self) -> Self:
        if self.language != "en" and self.min_stop_words is not None and self.stop_words is None:
            raise ValueError(
                f"the default stop words are English, language is {self.language}; give its stop_words, or"
                " min_stop_words: null"
            )
        return self

    def steps(self, work: Path) -> Steps:
        """Datatrove's class for these rules."""
        from datatrove.pipeline.filters import GopherQualityFilter

        yield GopherQualityFilter(
            min_doc_words=self.min_words,
            max_doc_words=self.max_words,
            min_avg_word_length=self.min_word_length,
            max_avg_word_length=self.max_word_length,
            max_symbol_word_ratio=self.max_symbols,
            max_bullet_lines_ratio=self.max_bullet_lines,
            max_ellipsis_lines_ratio=self.max_ellipsis_lines,
            max_non_alpha_words_ratio=self.min_alphabetic_words,
            min_stop_words=self.min_stop_words,
            stop_words=self.stop_words,
            language=self.language,
        )
