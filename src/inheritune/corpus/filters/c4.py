"""The filter `c4`: the rules of C4, and a list of words that remove a document."""

import re
from pathlib import Path
from typing import Literal

from inheritune.corpus.filters.base import Count, DocumentFilter, Steps, Words
from inheritune.errors import InputError
from inheritune.limits import WORDS_BYTES, read_text

_OFF = -1  # datatrove's mark for a rule that is switched off
_WITHOUT_SPACES = ("ja", "th", "zh")  # languages without spaces between words, as in datatrove's lists of bad words


class C4(DocumentFilter):
    """The rules of C4 (Raffel et al., 2020, section 2.2). It removes lines, and documents that keep too little."""

    filter: Literal["c4"] = "c4"
    """The filter's name."""
    end_punctuation: bool = True
    """Remove lines that do not end in a terminal punctuation mark."""
    min_words_per_line: Count | None = 3
    """Remove lines with fewer words; null: off."""
    max_word_length: Count | None = 1000
    """Remove lines with a longer word, in characters; null: off."""
    javascript: bool = True
    """Remove lines that mention JavaScript."""
    policy: bool = True
    """Remove lines about cookies, terms of use and privacy policies."""
    citations: bool = True
    """Remove marks such as [1], [edit] and [citation needed] from the lines."""
    lorem_ipsum: bool = True
    """Remove documents that contain `lorem ipsum`."""
    curly_bracket: bool = True
    """Remove documents that contain `{`."""
    min_sentences: Count | None = 5
    """Fewest sentences in the lines that remain; null: off."""
    by: Literal["line", "sentence"] = "line"
    """What the rules for lines look at. sentence: the sentences that remain are joined with spaces."""
    bad_words: Path | None = None
    """A UTF-8 text file with one word or phrase per line; documents with one of them are removed. Default: none are."""
    language: Words = "en"

    @property
    def cuts_text(self) -> bool:
        """Lines or sentences."""
        return True

    @property
    def splits_words(self) -> bool:
        """Only for its rules about sentences."""
        return self.min_sentences is not None or self.by == "sentence"

    def check(self, place: str) -> None:
        """The tokenizer, and the list of words."""
        super().check(place)
        if self.bad_words is not None:
            _read_words(self.bad_words, f"{place}.bad_words")

    def steps(self, work: Path) -> Steps:
        """The rules for lines, then the list of words."""
        from datatrove.pipeline.filters import C4BadWordsFilter, C4QualityFilter

        def limit(value: int | None) -> int:
            return _OFF if value is None else value

        yield C4QualityFilter(
            split_paragraph=self.by == "line",
            remove_citations=self.citations,
            filter_no_terminal_punct=self.end_punctuation,
            min_num_sentences=limit(self.min_sentences),
            min_words_per_line=limit(self.min_words_per_line),
            max_word_length=limit(self.max_word_length),
            filter_lorem_ipsum=self.lorem_ipsum,
            filter_javascript=self.javascript,
            filter_curly_bracket=self.curly_bracket,
            filter_policy=self.policy,
            language=self.language,
        )
        if self.bad_words is None:
            return
        any_word = "|".join(map(re.escape, _read_words(self.bad_words, f"data.filters: {self.title}")))
        if self.language not in _WITHOUT_SPACES:
            any_word = rf"(?:\W|^)({any_word})(?:\W|$)"
        pattern = re.compile(any_word)
        bad_words = C4BadWordsFilter()
        # datatrove's class cannot be given a list; this is where it downloads its own.
        bad_words._get_badwords = lambda language: pattern
        yield bad_words


def _read_words(path: Path, place: str) -> list[str]:
    try:
        words = [line.strip().lower() for line in read_text(path, WORDS_BYTES).splitlines()]
    except OSError as error:
        raise InputError(place, f"{path} cannot be read ({error.strerror})", "give the path of a word list") from None
    except UnicodeDecodeError:
        raise InputError(place, f"{path} is not UTF-8 text", "convert the file") from None
    words = [word for word in words if word]
    if not words:
        raise InputError(place, f"{path} has no words", "give one word a line, or remove bad_words")
    return words
