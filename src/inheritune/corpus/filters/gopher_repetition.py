"""The filter `gopher_repetition`: the repetition rules of Gopher."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from inheritune.corpus.filters.base import Count, DocumentFilter, Share, Steps, Words

GramShares = Annotated[dict[Count, Share], Field(min_length=1)]


class GopherRepetition(DocumentFilter):
    """The repetition rules of Gopher (Rae et al., 2021, table A1). null switches a rule off."""

    filter: Literal["gopher_repetition"] = "gopher_repetition"
    """The filter's name."""
    duplicate_lines: Share | None = 0.3
    """Largest share of lines that occurred before."""
    duplicate_paragraphs: Share | None = 0.3
    """Largest share of paragraphs that occurred before."""
    duplicate_line_characters: Share | None = 0.2
    """Largest share of characters in lines that occurred before."""
    duplicate_paragraph_characters: Share | None = 0.2
    """Largest share of characters in paragraphs that occurred before."""
    top_n_grams: GramShares | None = {2: 0.2, 3: 0.18, 4: 0.16}
    """By number of words: largest share of characters in the n-gram that occurs most."""
    duplicate_n_grams: GramShares | None = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    """By number of words: largest share of characters in n-grams that occurred before."""
    language: Words = "en"

    def steps(self, work: Path) -> Steps:
        """Datatrove's class for these rules."""
        from datatrove.pipeline.filters import GopherRepetitionFilter

        yield GopherRepetitionFilter(
            dup_line_frac=self.duplicate_lines,
            dup_para_frac=self.duplicate_paragraphs,
            dup_line_char_frac=self.duplicate_line_characters,
            dup_para_char_frac=self.duplicate_paragraph_characters,
            top_n_grams=tuple((self.top_n_grams or {}).items()),
            dup_n_grams=tuple((self.duplicate_n_grams or {}).items()),
            language=self.language,
        )
