"""What a preparation says of itself: what came from which source, what each filter removed, and samples of it."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.recipe import Data
from inheritune.redaction import without_secrets
from inheritune.runlog import open_new

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from inheritune.corpus.building.collection import Part
    from inheritune.corpus.building.drawing import Supply
    from inheritune.corpus.building.selection import Candidates, Piece
    from inheritune.corpus.building.writing import Written

_SAMPLES = 20  # removed documents kept of each filter
_NAMED = 20  # files of a source whose guessed encoding is noted with their names ...
_SAID = 3  # ... and said on the terminal


@dataclass(frozen=True)
class Drawn:
    """The outcome of drawing: validation's documents and digests, what else there is, all parts, the last round's."""

    candidates: "Candidates"
    validation: "list[Piece]"
    taken: set[bytes]
    supply: "Supply"
    parts: "list[Part]"
    read: "list[Part]"


def counted(parts: "list[Part]", name: str) -> Counter[str]:
    """One of the counts of a `collection.Tally`, over all parts."""
    found: Counter[str] = Counter()
    for part in parts:
        found.update(part.tally[name])
    return found


def _of(counts: Counter[str], number: int) -> dict[str, int]:
    """The counts by reason of one source, or of one filter."""
    mark = f"{number} "
    return {reason.removeprefix(mark): n for reason, n in sorted(counts.items()) if reason.startswith(mark)}


def account(data: Data, drawn: Drawn, splits: "dict[str, Written]") -> dict[str, Any]:
    """The manifest's `documents`, `sources` and `filters`.

    Documents found and passed over are of all the text that was read; what filters removed is of the documents drawn
    from it, the only ones that they see.
    """
    from inheritune.corpus.building.selection import filter_counts

    removed = filter_counts(drawn.candidates, len(data.filters))
    found = counted(drawn.read, "documents")
    passed_over = counted(drawn.read, "passed_over")
    encodings, guesses = counted(drawn.read, "encodings"), counted(drawn.read, "guesses")
    sources = []
    for number, source in enumerate(data.sources):
        entry = {
            "name": without_secrets(source.title),
            "documents_found": found[str(number)],
            "passed_over": _of(passed_over, number),
            "train_tokens": splits["train"].by_source.get(number, 0),
            "validation_tokens": splits["validation"].by_source.get(number, 0),
        }
        if source.encoding == "auto":
            entry["encodings"] = _of(encodings, number)
            entry["guessed"] = [_guess(found) for found in list(_of(guesses, number))[:_NAMED]]
        if source.dataset is not None:
            entry["drawn"] = (
                "from a stream: files and a buffer of documents shuffled with the seed, not the whole data set"
            )
        sources.append(entry)
    return {
        "documents": {
            "train": splits["train"].documents,
            "validation": splits["validation"].documents,
            "found": sum(found.values()),
            "drawn": int(removed[:, 0].sum()),
        },
        "sources": sources,
        "filters": _filters(data, drawn, removed),
    }


def _guess(found: str) -> dict[str, str]:
    encoding, _, file = found.partition(" ")
    return {"file": file, "encoding": encoding}


def encoding_lines(sources: list[dict[str, Any]]) -> Iterator[str]:
    """For each source of the manifest whose files' encodings were guessed a line that says what they are."""
    for source in sources:
        if source.get("encodings"):
            counts = ", ".join(f"{count:,} in {name}" for name, count in source["encodings"].items())
            files = [f"{guess['file']} ({guess['encoding']})" for guess in source["guessed"][:_SAID]]
            more = ", ..." if len(source["guessed"]) > _SAID else ""
            named = f"; not UTF-8: {', '.join(files)}{more}" if files else ""
            yield f"data: encoding of {source['name']}, decided by the files' bytes: {counts}{named}"


def _filters(data: Data, drawn: Drawn, removed: "NDArray[np.int64]") -> list[dict[str, Any]]:
    reasons = counted(drawn.parts, "reasons")
    left = removed.sum(axis=0)
    found = []
    for number, entry in enumerate(data.filters, start=1):
        after = left - removed[number]
        found.append(
            {
                "filter": entry.title,
                "documents_in": int(left[0]),
                "documents_out": int(after[0]),
                "tokens_in": int(left[1]),
                "tokens_out": int(after[1]),
                "reasons": _of(reasons, number),
            }
        )
        left = after
    return found


def write_removed(data: Data, drawn: Drawn, folder: Path) -> None:
    """For each filter a file with some of the documents that it removed, as far as there are any, to look at."""
    from inheritune.corpus.building.collection import records
    from inheritune.corpus.building.selection import NOT_ADMITTED

    picked: dict[int, list[tuple[int, int, int]]] = {}
    for part in range(len(drawn.candidates)):
        rows = drawn.candidates.index(part)
        for row in np.flatnonzero((rows["removed"] > 0) & (rows["removed"] != NOT_ADMITTED)).tolist():
            entry = int(rows["training_key"][row]), part, row
            mine = picked.setdefault(int(rows["removed"][row]), [])
            mine.append(entry)
            if len(mine) > 100 * _SAMPLES:
                mine[:] = sorted(mine)[:_SAMPLES]
    for number, entries in picked.items():
        wanted: dict[int, set[int]] = {}
        for _, part, row in sorted(entries)[:_SAMPLES]:
            wanted.setdefault(part, set()).add(row)
        folder.mkdir(exist_ok=True)
        with open_new(folder / f"{number}-{data.filters[number - 1].filter}.jsonl") as file:
            for part, rows_ in sorted(wanted.items()):
                for row, record in enumerate(records(drawn.parts[part])):
                    if row in rows_:
                        shown = {"place": record["place"], "reason": record["reason"], "text": record["text"]}
                        file.write((json.dumps(shown, ensure_ascii=False) + "\n").encode(errors="replace"))
