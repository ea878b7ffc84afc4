"""The recipe's `data.filters`: which documents are left out, one model per filter."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from inheritune.settings.part import Part

Share = Annotated[float, Field(gt=0, le=1)]
Score = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
GramShares = Annotated[dict[Count, Share], Field(min_length=1)]
LabelScores = Annotated[dict[str, Score], Field(min_length=1)]


class _Filter(Part):
    """What all filters have in common."""

    filter: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")] | None = None
    """What reports and samples call this filter (letters, digits, `_`, `-`, `.`); needed when a filter stands in the
    list twice. Default: the filter's own name."""

    @property
    def title(self) -> str:
        """The name that messages, reports and samples use."""
        return self.name or self.filter


class Language(_Filter):
    """Keeps documents that fastText's language identification takes for one of some languages."""

    filter: Literal["language"] = "language"
    """The filter's name."""
    keep: Annotated[list[str], Field(min_length=1)] = ["en"]
    """Languages to keep, as the model calls them (lid.176.bin: ISO 639 codes)."""
    threshold: Score = 0.65
    """A document is kept when one of them has a score above this (0 to 1)."""
    model: Path | None = None
    """A fastText language model on this machine, such as lid.176.bin. Default: lid.176.bin, downloaded once
    into datatrove's folder of assets."""


class GopherQuality(_Filter):
    """The quality rules of Gopher (Rae et al., 2021, appendix A1.1). null switches a rule off."""

    filter: Literal["gopher_quality"] = "gopher_quality"
    """The filter's name."""
    min_words: Count = 50
    """Fewest words, those that are more than symbols."""
    max_words: Count | None = 100_000
    """Most words, those that are more than symbols."""
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
    language: str = "en"
    """Whose rules separate words: an ISO 639 code that datatrove has a tokenizer for."""

    @model_validator(mode="after")
    def _stop_words_of_the_language(self) -> Self:
        if self.language != "en" and self.min_stop_words is not None and self.stop_words is None:
            raise ValueError(
                f"the default stop words are English, language is {self.language}; give its stop_words, or"
                " min_stop_words: null"
            )
        return self


class GopherRepetition(_Filter):
    """The repetition rules of Gopher (Rae et al., 2021, table A1). null switches a rule off."""

    filter: Literal["gopher_repetition"] = "gopher_repetition"
    """The filter's name."""
    duplicate_lines: Share | None = 0.3
    """Largest share of lines that stood before."""
    duplicate_paragraphs: Share | None = 0.3
    """Largest share of paragraphs that stood before."""
    duplicate_line_characters: Share | None = 0.2
    """Largest share of characters in lines that stood before."""
    duplicate_paragraph_characters: Share | None = 0.2
    """Largest share of characters in paragraphs that stood before."""
    top_n_grams: GramShares | None = {2: 0.2, 3: 0.18, 4: 0.16}
    """By number of words: largest share of characters in the n-gram that occurs most."""
    duplicate_n_grams: GramShares | None = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}
    """By number of words: largest share of characters in n-grams that stood before."""
    language: str = "en"
    """Whose rules separate words: an ISO 639 code that datatrove has a tokenizer for."""


class C4(_Filter):
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
    """Take marks such as [1], [edit] and [citation needed] out of the lines."""
    lorem_ipsum: bool = True
    """Remove documents with `lorem ipsum` in them."""
    curly_bracket: bool = True
    """Remove documents with `{` in them."""
    min_sentences: Count | None = 5
    """Fewest sentences in the lines that are left; null: off."""
    by: Literal["line", "sentence"] = "line"
    """What the rules for lines look at. sentence: the sentences that are left are joined with spaces."""
    bad_words: Path | None = None
    """A UTF-8 text file with one word or phrase per line; documents with one of them are removed. Default: none are."""
    language: str = "en"
    """Whose rules separate sentences: an ISO 639 code that datatrove has a tokenizer for."""


class FineWebQuality(_Filter):
    """The rules that FineWeb adds to Gopher's and C4's (Penedo et al., 2024)."""

    filter: Literal["fineweb_quality"] = "fineweb_quality"
    """The filter's name."""
    min_punctuated_lines: Score = 0.12
    """Smallest share of lines that end in a terminal punctuation mark."""
    max_short_lines: Score = 0.67
    """Largest share of short lines."""
    short_line: Count = 30
    """The most characters that a short line has."""
    max_duplicate_characters: Score = 0.01
    """Largest share of characters in lines that stood before."""
    max_newlines: Annotated[float, Field(ge=0)] = 0.3
    """Most newlines per word."""
    language: str = "en"
    """Whose rules separate words: an ISO 639 code that datatrove has a tokenizer for."""


class DocumentLength(_Filter):
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
    language: str = "en"
    """Whose rules separate words: an ISO 639 code that datatrove has a tokenizer for."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        ends = (self.min_characters, self.max_characters), (self.min_words, self.max_words)
        if not any(limit is not None for pair in ends for limit in pair):
            raise ValueError("no limit is given; give min_characters, max_characters, min_words or max_words")
        for unit, (least, most) in zip(("characters", "words"), ends, strict=True):
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{unit} {least} is above max_{unit} {most}; nothing would be kept")
        return self


class Classifier(_Filter):
    """Keeps or removes documents by the labels of a fastText classifier."""

    filter: Literal["classifier"] = "classifier"
    """The filter's name."""
    model: Path
    """The classifier on this machine: what fastText's `save_model` wrote (.bin or .ftz)."""
    keep: LabelScores | None = None
    """Label: least score (0 to 1). Kept is what reaches one of them. Labels are written without `__label__`."""
    remove: LabelScores | None = None
    """Label: least score (0 to 1). Removed is what reaches one of them. Instead of `keep`."""
    by: Literal["document", "paragraph", "sentence"] = "document"
    """What is classified. paragraph, sentence (English rules): those that are not kept are cut out of the document, and
    a document of which nothing is left is removed."""
    newline: str = ""
    """What stands for a newline when a text is classified: fastText reads one line. A classifier that was trained on
    texts with newlines turned to spaces needs ' '."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.keep is None) == (self.remove is None):
            raise ValueError("give either keep or remove, as label: least score; for both put the filter in twice")
        return self


class Decontaminate(_Filter):
    """Removes documents that share a run of words with an evaluation's questions and answers."""

    filter: Literal["decontaminate"] = "decontaminate"
    """The filter's name."""
    files: list[Path] = []
    """Evaluation texts on this machine: .txt and .jsonl files, or folders of them (searched at every depth)."""
    text_keys: Annotated[list[str], Field(min_length=1)] = ["text"]
    """The keys of a .jsonl record whose texts are looked at, one after the other: for example [question, answer]."""
    tasks: list[str] = []
    """Tasks and groups of lm-evaluation-harness, and task files (.yaml): each question with its right answers."""
    trust_task_files: bool = False
    """Read task files. They may name Python code, which is then run: only for files that you trust."""
    n_grams: Count = 12
    """The length of a run, in words. Case, punctuation, accents and the digits of numbers do not count."""
    language: str = "en"
    """Whose rules separate words: an ISO 639 code that datatrove has a tokenizer for."""

    @model_validator(mode="after")
    def _against_something(self) -> Self:
        if not self.files and not self.tasks:
            raise ValueError("nothing to compare with; give files or tasks")
        return self


class ExactDuplicates(_Filter):
    """Keeps one of all documents with the same text."""

    filter: Literal["exact_duplicates"] = "exact_duplicates"
    """The filter's name."""


class NearDuplicates(_Filter):
    """Keeps one of all documents that are nearly alike, by MinHash of their n-grams (Broder, 1997)."""

    filter: Literal["near_duplicates"] = "near_duplicates"
    """The filter's name."""
    n_grams: Count = 5
    """Words in an n-gram; shorter documents are never near-duplicates."""
    buckets: Count = 14
    """Signatures per document; two documents with one in common are near-duplicates."""
    hashes_per_bucket: Count = 8
    """Hashes in a signature. Two documents that share the part s of their n-grams (Jaccard) are found with probability
    1 - (1 - s^hashes_per_bucket)^buckets: 0.92 for s = 0.8."""
    language: str = "en"
    """Whose rules separate words: an ISO 639 code that datatrove has a tokenizer for."""


DocumentFilter = (
    Language | GopherQuality | GopherRepetition | C4 | FineWebQuality | DocumentLength | Classifier | Decontaminate
)
"""Filters that look at one document at a time."""
CorpusFilter = ExactDuplicates | NearDuplicates
"""Filters that compare all documents."""

FILTERS = {
    model.model_fields["filter"].default: model for model in (*get_args(DocumentFilter), *get_args(CorpusFilter))
}
"""Every filter's model by its name in a recipe."""


def _as_mapping(entry: Any) -> Any:
    """A bare name stands for the filter with its defaults."""
    if isinstance(entry, _Filter):
        return entry
    entry = {"filter": entry} if isinstance(entry, str) else entry
    legal = ", ".join(FILTERS)
    if not isinstance(entry, dict) or "filter" not in entry:
        raise ValueError(f"not a filter; give a name, or a mapping with the key filter: {legal}")
    if str(entry["filter"]) not in FILTERS:
        near = difflib.get_close_matches(str(entry["filter"]), FILTERS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no filter {entry['filter']!r}; {hint}legal are {legal}")
    return entry


def _in_order(filters: list[Any]) -> list[Any]:
    titles = [entry.title for entry in filters]
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise ValueError(f"{twice[0]} stands in the list twice; give each its own `name`, or remove one")
    last = ""
    seen: set[str] = set()
    for entry in filters:
        corpus_wide = isinstance(entry, CorpusFilter)
        if corpus_wide and entry.filter in seen:
            raise ValueError(f"{entry.filter} stands in the list twice; remove one")
        if last and not corpus_wide:
            raise ValueError(f"{entry.title} comes after {last}, which compares what all others left; put {last} last")
        last = entry.title if corpus_wide else ""
        seen.add(entry.filter)
    return filters


Filter = Annotated[
    Annotated[DocumentFilter | CorpusFilter, Field(discriminator="filter")], BeforeValidator(_as_mapping)
]
Filters = Annotated[list[Filter], AfterValidator(_in_order)]
"""A list of filters: those for one document in the order in which they are asked, then those that compare all."""
