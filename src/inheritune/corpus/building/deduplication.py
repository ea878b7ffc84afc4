"""The filters that compare all documents, applied to the candidates one after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datatrove.data import Document

from inheritune.corpus.building.collection import Part, records
from inheritune.corpus.building.execution import Stages
from inheritune.corpus.building.selection import Candidates, among
from inheritune.corpus.filters.base import CorpusFilter
from inheritune.data import Array
from inheritune.recipe import FilterConfig


@dataclass(repr=False)  # datatrove would write a long one into each log
class ReadKept:
    """A step: reads the documents of a part that no filter has removed so far."""

    parts: list[Path]
    kept: Sequence[Array]

    def __call__(self, data: None, rank: int, world_size: int) -> Iterator[Document]:
        """The documents of part number `rank`, in its order."""
        for record, kept in zip(records(self.parts[rank]), self.kept[rank], strict=True):
            if kept:
                yield Document(text=record["text"], id=record["place"])


@dataclass(frozen=True)
class Comparison:
    """What a filter that compares all documents works with."""

    candidates: Candidates
    """The index rows of all documents, in parts."""
    parts: list[Path]
    """The files with their texts."""
    is_taken: Callable[[Array], Array]
    """Which of some index rows have a text that is in validation: these are kept, and what is like them is removed."""
    work: Path
    """The folder for files, and ..."""
    stages: Stages
    """... what runs stages of tasks."""

    def read(self, kept: Sequence[Array]) -> ReadKept:
        """A step that reads the documents of each part for which `kept` (documents,) is true."""
        return ReadKept(self.parts, kept)


def without_duplicates(
    filters: Sequence[FilterConfig], parts: Sequence[Part], candidates: Candidates, taken: set[bytes], work: Path,
    stages: Stages,
) -> Candidates:  # fmt: skip
    """The candidates with marks for the documents that the filters over all documents remove, numbered from 1.

    `taken` are the digests of the texts in validation.
    """
    paths, is_taken = [part.path for part in parts], among(taken)
    for number, entry in enumerate(filters, start=1):
        if isinstance(entry, CorpusFilter):
            marks = entry.marks(number, Comparison(candidates, paths, is_taken, work, stages))
            candidates = candidates.marked(marks)
    return candidates
