"""Filters that look at one document at a time, with datatrove's classes behind them."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.corpus.filters.classifiers import read_labels
from inheritune.corpus.filters.decontamination import build_index, check_evaluations, contamination_step
from inheritune.corpus.filters.words import check_words, missing_packages
from inheritune.errors import InputError, Problem
from inheritune.limits import WORDS_BYTES, read_text
from inheritune.recipe import (
    C4,
    Classifier,
    CorpusFilter,
    Decontaminate,
    DocumentLength,
    ExactDuplicates,
    Filter,
    FineWebQuality,
    GopherQuality,
    GopherRepetition,
    Language,
)

if TYPE_CHECKING:
    from datatrove.data import Document
    from datatrove.pipeline.filters.base_filter import BaseFilter

_FASTTEXT = {"fasttext": "fasttext-numpy2-wheel", "fasteners": "fasteners"}
_OFF = -1  # datatrove's mark for a rule of C4 that is switched off
# In Japanese, Thai and Chinese no space stands between words (as in datatrove's own lists of bad words).
_WITHOUT_SPACES = ("ja", "th", "zh")


class DocumentFilter:
    """A per-document filter that can be sent to another process: what it needs is loaded with its first document."""

    def __init__(self, settings: Any, index: Path | None = None) -> None:
        """`index`: the folder of n-gram hashes that `build_index` made (decontaminate only)."""
        self.settings, self.index = settings, index
        self._steps: list[BaseFilter] | None = None

    @property
    def name(self) -> str:
        """What reports call the filter."""
        return str(self.settings.title)

    def judge(self, document: "Document") -> str | None:
        """None when the document stays, else why it goes.

        A filter may cut lines or spans out of `document.text`; a document that goes has its text as it was. One on
        which the filter itself fails goes too, as nothing is known of it. What a filter found out (language, scores,
        the n-gram of an evaluation) is added to `document.metadata`.
        """
        if self._steps is None:
            self._steps = _BUILDERS[type(self.settings)](self.settings, self.index)
        text = document.text
        for step in self._steps:
            reason = self._ask(step, document)
            if reason is None and not document.text.strip():
                reason = "nothing left"
            if reason is not None:
                document.text = text
                return reason
        return None

    def _ask(self, step: "BaseFilter", document: "Document") -> str | None:
        try:
            answer = step.filter(document)
        except (OSError, ImportError, MemoryError):
            raise  # the machine's fault, not the document's
        except Exception as error:  # datatrove divides by counts that may be 0, and spaCy and fastText refuse some text
            return f"cannot be judged ({type(error).__name__})"
        kept, reason = answer if isinstance(answer, tuple) else (answer, None)
        if kept:
            return None
        if isinstance(self.settings, Language):
            found = document.metadata["language"]
            return "score too low" if found in self.settings.keep else str(found)
        if isinstance(self.settings, Decontaminate):
            return str(document.metadata["contaminated_task"])
        return str(reason or "label")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_steps": None}


def build_filters(filters: Sequence[Filter], work: Path) -> list[DocumentFilter]:
    """The per-document filters of a recipe's list, in its order; those that compare all documents are left out.

    The index of a decontamination is made here, in the folder `work`/NAME.index, unless it is there already. Raises
    InputError for evaluations that cannot be read or are too short.
    """
    judges = []
    for number, settings in enumerate(filters):
        if isinstance(settings, CorpusFilter):
            continue
        index = None
        if isinstance(settings, Decontaminate):
            index = work / f"{settings.title}.index"
            build_index(settings, index, f"data.filters.{number}")
        judges.append(DocumentFilter(settings, index))
    return judges


def check_filters(filters: Sequence[Filter]) -> None:
    """Look for all that the filters need: packages, tokenizers, models and their labels, word lists, evaluations.

    No text is read. A language model that has no path is downloaded now. Raises InputError with every problem.
    """
    problems: list[Problem] = []
    for number, settings in enumerate(filters):
        for check in (_check_packages, _check_language_of_words, _check_files):
            try:
                check(settings, f"data.filters.{number}")
            except InputError as error:
                problems += error.problems
                break  # without its packages a filter's files cannot be looked at
    if problems:
        raise InputError.of(problems)


def _check_packages(settings: Filter, place: str) -> None:
    if isinstance(settings, Language | Classifier):
        missing_packages(_FASTTEXT, place)


def _check_language_of_words(settings: Filter, place: str) -> None:
    if isinstance(settings, Classifier):
        if settings.by == "sentence":
            check_words("en", place)
    elif isinstance(settings, DocumentLength):
        if settings.min_words is not None or settings.max_words is not None:
            check_words(settings.language, place)
    elif isinstance(settings, C4):
        if settings.min_sentences is not None or settings.by == "sentence":
            check_words(settings.language, place)
    elif not isinstance(settings, Language | ExactDuplicates):
        check_words(settings.language, place)


def _check_files(settings: Filter, place: str) -> None:
    if isinstance(settings, Language):
        model, key = _language_model(settings, place), f"{place}.keep"
        _check_labels(settings.keep, read_labels(model, f"{place}.model"), key)
    elif isinstance(settings, Classifier):
        key = f"{place}.keep" if settings.keep else f"{place}.remove"
        _check_labels([*(settings.keep or settings.remove or ())], read_labels(settings.model, f"{place}.model"), key)
    elif isinstance(settings, C4) and settings.bad_words is not None:
        _read_bad_words(settings.bad_words, f"{place}.bad_words")
    elif isinstance(settings, Decontaminate):
        check_evaluations(settings, place)


def _check_labels(asked: list[str], there: list[str], place: str) -> None:
    unknown = [label for label in asked if label not in there]
    if unknown:
        shown = ", ".join(sorted(there)[:200])
        raise InputError(place, f"the model has no label {', '.join(unknown)}", f"its labels are {shown}")


def _language_model(settings: Language, place: str) -> Path:
    """The file of the language model; without a path datatrove's, downloaded when it is not there."""
    if settings.model is not None:
        return settings.model
    from datatrove.io import cached_asset_path_or_download
    from datatrove.utils.lid import FT176LID

    address, folder = FT176LID.MODEL_URL, FT176LID.MODEL_SUBFOLDER
    try:
        return Path(cached_asset_path_or_download(address, progress=False, namespace="lid", subfolder=folder))
    except Exception as error:  # whatever the network, a proxy or the disk may say
        raise InputError(
            place,
            f"the language model lid.176.bin is not on this machine and cannot be downloaded ({error})",
            f"fetch {address} elsewhere and name the file here with model: PATH/lid.176.bin",
        ) from None


def _read_bad_words(path: Path, place: str) -> list[str]:
    try:
        words = [line.strip().lower() for line in read_text(path, WORDS_BYTES).splitlines()]
    except OSError as error:
        raise InputError(place, f"{path} cannot be read ({error.strerror})", "give the path of a word list") from None
    except UnicodeDecodeError:
        raise InputError(place, f"{path} is not UTF-8 text", "convert the file") from None
    words = [word for word in words if word]
    if not words:
        raise InputError(place, f"{path} has no words", "give one word a line, or leave bad_words away")
    return words


def _load_model(path: Path) -> Any:
    from fasttext.FastText import _FastText

    return _FastText(str(path))


def _language(settings: Language, _: Path | None) -> "list[BaseFilter]":
    from datatrove.pipeline.filters import LanguageFilter

    step = LanguageFilter(settings.keep, settings.threshold)
    # Loaded from where it stands: datatrove would take a copy, and keep to it when the file has changed.
    step.model._model = _load_model(_language_model(settings, f"data.filters: {settings.title}"))
    return [step]


def _gopher_quality(settings: GopherQuality, _: Path | None) -> "list[BaseFilter]":
    from datatrove.pipeline.filters import GopherQualityFilter

    return [
        GopherQualityFilter(
            min_doc_words=settings.min_words,
            max_doc_words=settings.max_words,
            min_avg_word_length=settings.min_word_length,
            max_avg_word_length=settings.max_word_length,
            max_symbol_word_ratio=settings.max_symbols,
            max_bullet_lines_ratio=settings.max_bullet_lines,
            max_ellipsis_lines_ratio=settings.max_ellipsis_lines,
            max_non_alpha_words_ratio=settings.min_alphabetic_words,
            min_stop_words=settings.min_stop_words,
            stop_words=settings.stop_words,
            language=settings.language,
        )
    ]


def _gopher_repetition(settings: GopherRepetition, _: Path | None) -> "list[BaseFilter]":
    from datatrove.pipeline.filters import GopherRepetitionFilter

    return [
        GopherRepetitionFilter(
            dup_line_frac=settings.duplicate_lines,
            dup_para_frac=settings.duplicate_paragraphs,
            dup_line_char_frac=settings.duplicate_line_characters,
            dup_para_char_frac=settings.duplicate_paragraph_characters,
            top_n_grams=tuple((settings.top_n_grams or {}).items()),
            dup_n_grams=tuple((settings.duplicate_n_grams or {}).items()),
            language=settings.language,
        )
    ]


def _c4(settings: C4, _: Path | None) -> "list[BaseFilter]":
    from datatrove.pipeline.filters import C4BadWordsFilter, C4QualityFilter

    steps: list[BaseFilter] = [
        C4QualityFilter(
            split_paragraph=settings.by == "line",
            remove_citations=settings.citations,
            filter_no_terminal_punct=settings.end_punctuation,
            min_num_sentences=_OFF if settings.min_sentences is None else settings.min_sentences,
            min_words_per_line=_OFF if settings.min_words_per_line is None else settings.min_words_per_line,
            max_word_length=_OFF if settings.max_word_length is None else settings.max_word_length,
            filter_lorem_ipsum=settings.lorem_ipsum,
            filter_javascript=settings.javascript,
            filter_curly_bracket=settings.curly_bracket,
            filter_policy=settings.policy,
            language=settings.language,
        )
    ]
    if settings.bad_words is not None:
        words = _read_bad_words(settings.bad_words, f"data.filters: {settings.title}")
        any_word = "|".join(map(re.escape, words))
        if settings.language not in _WITHOUT_SPACES:
            any_word = rf"(?:\W|^)({any_word})(?:\W|$)"
        pattern = re.compile(any_word)
        step = C4BadWordsFilter()
        # datatrove's class has no way to name a list; this is where it downloads its own.
        step._get_badwords = lambda language: pattern
        steps.append(step)
    return steps


def _fineweb_quality(settings: FineWebQuality, _: Path | None) -> "list[BaseFilter]":
    from datatrove.pipeline.filters import FineWebQualityFilter

    return [
        FineWebQualityFilter(
            line_punct_thr=settings.min_punctuated_lines,
            short_line_thr=settings.max_short_lines,
            short_line_length=settings.short_line,
            char_duplicates_ratio=settings.max_duplicate_characters,
            new_line_ratio=settings.max_newlines,
            language=settings.language,
        )
    ]


def _length(settings: DocumentLength, _: Path | None) -> "list[BaseFilter]":
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.utils.text import split_into_words

    def fits(document: "Document") -> tuple[bool, str]:
        characters = len(document.text)
        if settings.min_characters is not None and characters < settings.min_characters:
            return False, "too few characters"
        if settings.max_characters is not None and characters > settings.max_characters:
            return False, "too many characters"
        if settings.min_words is None and settings.max_words is None:
            return True, ""
        words = len(split_into_words(document.text, settings.language))
        if settings.min_words is not None and words < settings.min_words:
            return False, "too few words"
        if settings.max_words is not None and words > settings.max_words:
            return False, "too many words"
        return True, ""

    return [LambdaFilter(fits)]


def _classifier(settings: Classifier, _: Path | None) -> "list[BaseFilter]":
    from datatrove.pipeline.filters import FastTextClassifierFilter

    step = FastTextClassifierFilter(
        str(settings.model),
        keep_labels=list(settings.keep.items()) if settings.keep else None,
        remove_labels=list(settings.remove.items()) if settings.remove else None,
        newline_replacement=settings.newline,
        filter_mode=settings.by.upper(),
    )
    step._model = _load_model(settings.model)  # from where it stands, as in _language
    return [step]


def _decontaminate(settings: Decontaminate, index: Path | None) -> "list[BaseFilter]":
    if index is None:
        raise ValueError("decontaminate needs the folder of its index")
    return [contamination_step(settings, index)]


_BUILDERS: dict[type, Callable[[Any, Path | None], "list[BaseFilter]"]] = {
    Language: _language,
    GopherQuality: _gopher_quality,
    GopherRepetition: _gopher_repetition,
    C4: _c4,
    FineWebQuality: _fineweb_quality,
    DocumentLength: _length,
    Classifier: _classifier,
    Decontaminate: _decontaminate,
}
