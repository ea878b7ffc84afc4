"""The filter `exact_duplicates`: one of all documents with the same text."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from inheritune.corpus.filters.base import CorpusFilter

if TYPE_CHECKING:
    from inheritune.corpus.building.execution import Stages
    from inheritune.corpus.building.selection import Candidates
    from inheritune.data.shards import Array

_IN_MEMORY = 2_000_000  # rows that are sorted at once


class ExactDuplicates(CorpusFilter):
    """Keeps one of all documents with the same text."""

    filter: Literal["exact_duplicates"] = "exact_duplicates"
    """The filter's name."""

    def marks(
        self, number: int, candidates: "Candidates", taken: set[bytes], work: Path, stages: "Stages"
    ) -> "list[Array]":
        """Mark equal texts, except the first by `Candidates.ranks`."""
        marks: list[Array] = [np.zeros(len(rows), np.uint8) for rows in candidates]
        slices = max(1, -(-sum(map(len, marks)) // _IN_MEMORY))
        for slice_ in range(slices):
            tables = [np.zeros((7, 0), "<u8")]
            for part, index in enumerate(candidates):
                digest = index["digest"]
                at = np.flatnonzero((index["removed"] == 0) & (digest[:, 0] % np.uint64(slices) == slice_))
                place = np.full(len(at), part, "<u8"), at.astype("<u8")
                tables.append(np.stack([*digest[at].T, *candidates.ranks(index[at]), *place]))
            table = np.concatenate(tables, axis=1)
            table = table[:, np.lexsort(table[::-1])]
            again = np.flatnonzero((table[:2, 1:] == table[:2, :-1]).all(axis=0)) + 1
            for part, row in table[-2:, again].T:
                marks[int(part)][int(row)] = number
        return marks
