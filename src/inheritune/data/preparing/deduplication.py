"""The filters that compare all documents: equal texts, and near-duplicates."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from inheritune.data.filters.near_duplicates import near_duplicate_stages, removed_near_duplicates
from inheritune.data.preparing.collection import Part, records
from inheritune.data.preparing.execution import Stages
from inheritune.data.preparing.selection import Candidates, duplicates, joined
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
    filters: Sequence[Filter], parts: Sequence[Part], candidates: Candidates, work: Path, stages: Stages
) -> Candidates:
    """The candidates, those marked that the filters over all documents remove, by the filters' numbers (from 1)."""
    for number, settings in enumerate(filters, start=1):
        if isinstance(settings, ExactDuplicates):
            marks = duplicates(candidates, number)
        elif isinstance(settings, NearDuplicates):
            marks = _near_duplicates(settings, number, parts, candidates, work, stages)
        else:
            continue
        candidates = Candidates(candidates.parts, candidates.gate, joined(candidates.removed, marks))
    return candidates


def _near_duplicates(
    settings: NearDuplicates,
    number: int,
    parts: Sequence[Part],
    candidates: Candidates,
    work: Path,
    stages: Stages,
) -> "list[NDArray[np.uint8]]":
    # other documents are another comparison
    compared = json.dumps([settings.model_dump(), asdict(candidates.gate), [part.path.name for part in parts]])
    run = hashlib.sha256(compared.encode()).hexdigest()[:12]
    folder = work / f"near-duplicates-{run}"
    kept = [candidates.index(part)["removed"] == 0 for part in range(len(parts))]
    read = ReadKept([part.path for part in parts], kept)
    steps: list[tuple[str, list[Any], int]] = near_duplicate_stages(settings, read, len(parts), folder)
    for name, pipeline, tasks in steps:
        stages.run(f"{name}-{run}", pipeline, tasks)
    marks = []
    for part, mask in enumerate(kept):
        found = np.zeros(len(mask), np.uint8)
        found[np.flatnonzero(mask)[sorted(removed_near_duplicates(folder, part))]] = number
        marks.append(found)
    return marks
