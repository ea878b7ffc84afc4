"""The filters that compare all documents: equal texts, and near-duplicates."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from inheritune.corpus.building.collection import Part, records
from inheritune.corpus.building.execution import Stages
from inheritune.corpus.building.selection import Candidates, among, duplicates, joined
from inheritune.corpus.filters.near_duplicates import clusters, near_duplicate_stages
from inheritune.recipe import ExactDuplicates, Filter, NearDuplicates

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ReadKept(PipelineStep):  # type: ignore[misc]
    """Reads the documents of a part that no filter has removed so far."""

    name = "Candidates"
    type = "Reader"

    def __init__(self, parts: Sequence[Path], kept: "Sequence[NDArray[np.bool_]]") -> None:
        super().__init__()
        self.parts, self.kept = list(parts), list(kept)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The documents of part number `rank`, in its order."""
        for record, kept in zip(records(self.parts[rank]), self.kept[rank], strict=True):
            if kept:
                yield Document(text=record["text"], id=record["place"])


def without_duplicates(
    filters: Sequence[Filter],
    parts: Sequence[Part],
    candidates: Candidates,
    taken: set[bytes],
    work: Path,
    stages: Stages,
) -> Candidates:
    """The candidates, those marked that the filters over all documents remove, by the filters' numbers (from 1).

    Texts that are `taken` for validation, given as digests, stay, and what is like one of them goes.
    """
    for number, settings in enumerate(filters, start=1):
        if isinstance(settings, ExactDuplicates):
            marks = duplicates(candidates, number)
        elif isinstance(settings, NearDuplicates):
            marks = _near_duplicates(settings, number, parts, candidates, taken, work, stages)
        else:
            continue
        candidates = Candidates(candidates.parts, candidates.gate, joined(candidates.removed, marks))
    return candidates


def _near_duplicates(
    settings: NearDuplicates,
    number: int,
    parts: Sequence[Part],
    candidates: Candidates,
    taken: set[bytes],
    work: Path,
    stages: Stages,
) -> "list[NDArray[np.uint8]]":
    kept = [candidates.index(part)["removed"] == 0 for part in range(len(parts))]
    run = _name(settings, parts, kept)
    folder = work / f"near-duplicates-{run}"
    read = ReadKept([part.path for part in parts], kept)
    steps: list[tuple[str, list[Any], int]] = near_duplicate_stages(settings, read, len(parts), folder)
    for name, pipeline, tasks in steps:
        stages.run(f"{name}-{run}", pipeline, tasks)
    return _marked(candidates, number, [clusters(folder, part) for part in range(len(parts))], kept, among(taken))


def _name(settings: NearDuplicates, parts: Sequence[Part], kept: "Sequence[NDArray[np.bool_]]") -> str:
    """Other documents are another comparison, whose files must not be taken for this one's."""
    digest = hashlib.sha256(json.dumps([settings.model_dump(), [part.path.name for part in parts]]).encode())
    for mask in kept:
        digest.update(np.packbits(mask).tobytes())
    return digest.hexdigest()[:12]


def _marked(
    candidates: Candidates,
    number: int,
    found: "Sequence[tuple[NDArray[Any], NDArray[Any]]]",
    kept: "Sequence[NDArray[np.bool_]]",
    is_taken: "Callable[[NDArray[Any]], NDArray[np.bool_]]",
) -> "list[NDArray[np.uint8]]":
    """For each part `number` where a document is like one that stays; `found`: its clusters."""
    marks, columns = [np.zeros(len(mask), np.uint8) for mask in kept], []
    for part, (documents, cluster) in enumerate(found):
        at = np.flatnonzero(kept[part])[documents]
        rows = candidates.index(part)[at]
        first = cluster, ~is_taken(rows), *candidates.ranks(rows)
        columns.append(np.stack([column.astype("<u8") for column in (*first, np.full(len(at), part), at)]))
    table = np.concatenate(columns, axis=1)
    table = table[:, np.lexsort(table[::-1])]
    cluster, free, key = table[0], table[1], table[3]
    like = cluster[1:] == cluster[:-1]
    # several of a cluster may be taken for validation: alone, without what connects them, they were not alike
    like &= (free[1:] == 1) | (key[1:] == key[:-1])
    for part, row in table[-2:, 1:][:, like].T:
        marks[int(part)][int(row)] = number
    return marks
