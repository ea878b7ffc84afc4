"""The filter `fineweb_quality`: FineWeb's own rules."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from inheritune.corpus.filters.base import Count, DocumentFilter, Score, Steps, Words


class FineWebQuality(DocumentFilter):
    """The rules that FineWeb adds to those of Gopher and C4 (Penedo et al., 2024)."""

    filter: Literal["fineweb_quality"] = "fineweb_quality"
    """The filter's name."""
    min_punctuated_lines: Score = 0.12
    """Smallest share of lines that end in a terminal punctuation mark."""
    max_short_lines: Score = 0.67
    """Largest share of short lines."""
    short_line: Count = 30
    """The most characters that a short line has."""
    max_duplicate_characters: Score = 0.01
    """Largest share of characters in lines that occurred before."""
    max_newlines: Annotated[float, Field(ge=0)] = 0.3
    """Most newlines per word."""
    language: Words = "en"

    def steps(self, work: Path) -> Steps:
        """Datatrove's class for these rules."""
        from datatrove.pipeline.filters import FineWebQualityFilter

        yield FineWebQualityFilter(
            line_punct_thr=self.min_punctuated_lines,
            short_line_thr=self.max_short_lines,
            short_line_length=self.short_line,
            char_duplicates_ratio=self.max_duplicate_characters,
            new_line_ratio=self.max_newlines,
            language=self.language,
        )
