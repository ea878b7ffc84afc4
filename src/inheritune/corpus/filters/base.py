"""The base classes of filters: the checks before a preparation, and the decision about a document."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import Field

from inheritune.corpus.filters.words import check_words
from inheritune.errors import check_all
from inheritune.recipe.filters import FilterConfig

if TYPE_CHECKING:
    from inheritune.corpus.building.execution import Stages
    from inheritune.corpus.building.selection import Candidates
    from inheritune.data.shards import Array

Share = Annotated[float, Field(gt=0, le=1)]
Score = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Document: TypeAlias = Any  # datatrove's; it is imported where a filter is applied, not with a recipe
Steps: TypeAlias = Iterator[Any]  # of datatrove's filters
Words = Annotated[
    str, Field(description="Whose rules separate words: an ISO 639 code that datatrove has a tokenizer for.")
]


class Filter(FilterConfig):
    """A filter: its keys in a recipe and what it needs. Subclasses decide what it removes."""

    @property
    def splits_words(self) -> bool:
        """Whether the filter splits text into the words or sentences of its key `language`."""
        return "language" in type(self).model_fields

    def check(self, place: str) -> None:
        """Raise InputError where this machine lacks a package, tokenizer, model or file that the filter needs."""
        if self.splits_words:
            check_words(getattr(self, "language"), place)  # noqa: B009 (a key of most filters)


class DocumentFilter(Filter):
    """A filter that judges one document at a time. Use datatrove's `LambdaFilter` for a rule of your own."""

    def prepare(self, work: Path, place: str) -> None:
        """Make the files that the filter needs, once, in the working folder."""

    def steps(self, work: Path) -> Steps:
        """Yield datatrove's filters in their order, with their models loaded. `work`: the folder that `prepare` had."""
        raise NotImplementedError

    def name_reason(self, document: Document, reason: str | None) -> str:
        """Why a document is removed. `reason` is datatrove's."""
        return reason or "label"

    def build(self, work: Path) -> Callable[[Document], str | None]:
        """A function that gives the reason to remove a document, or None to keep it.

        It may cut lines or spans out of `document.text`; a document that is removed keeps its text. A document on which
        the filter fails is removed too. Results (language, scores, the evaluation that has the n-gram) are added to
        `document.metadata`.
        """
        steps = list(self.steps(work))

        def removal_reason(document: Document) -> str | None:
            text = document.text
            for step in steps:
                reason = self._apply(step, document)
                if reason is None and not document.text.strip():
                    reason = "nothing left"
                if reason is not None:
                    document.text = text
                    return reason
            return None

        return removal_reason

    def _apply(self, step: Any, document: Document) -> str | None:
        try:
            answer = step.filter(document)
        except (OSError, ImportError, MemoryError):
            raise  # the machine's fault, not the document's
        except Exception as error:  # datatrove divides by counts that may be 0; spaCy and fastText refuse some text
            return f"cannot be judged ({type(error).__name__})"
        keep, reason = answer if isinstance(answer, tuple) else (answer, None)
        return None if keep else self.name_reason(document, reason)


class CorpusFilter(Filter):
    """A filter that compares all documents."""

    compares_all = True

    def marks(
        self, number: int, candidates: "Candidates", taken: set[bytes], work: Path, stages: "Stages"
    ) -> "list[Array]":
        """For each part of the corpus an array (documents,) of uint8: `number` for a document to remove, else 0.

        Documents whose text is in validation are kept; `taken` has the digests of these texts. `stages` runs tasks,
        which write into the folder `work`.
        """
        raise NotImplementedError


def check_filters(filters: Sequence[FilterConfig]) -> None:
    """Raise InputError with everything that the filters need and this machine lacks.

    No text is read. A language model that has no path is downloaded now.
    """
    check_all(
        partial(entry.check, f"data.filters.{number}")
        for number, entry in enumerate(filters)
        if isinstance(entry, Filter)
    )


def prepare_filters(filters: Sequence[FilterConfig], work: Path) -> list[tuple[int, DocumentFilter]]:
    """The filters for one document, ready to be built, with their numbers in the recipe's list, from 1.

    Raises InputError for evaluations that cannot be read or are too short.
    """
    chosen = [(number, entry) for number, entry in enumerate(filters, start=1) if isinstance(entry, DocumentFilter)]
    for number, entry in chosen:
        entry.prepare(work, f"data.filters.{number - 1}")
    return chosen
