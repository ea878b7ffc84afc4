"""The manifest of a preparation: tokens and documents of each source, what each filter removed, and samples of it."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inheritune.corpus.building.collection import Part, records, total
from inheritune.corpus.building.drawing import Supply
from inheritune.corpus.building.selection import NOT_ADMITTED, Candidates, filter_counts
from inheritune.corpus.building.validation import DOCUMENTS, Validation, origins_of
from inheritune.corpus.building.writing import Written
from inheritune.recipe import Data
from inheritune.redaction import without_secrets
from inheritune.runlog import open_new

_SAMPLES = 20  # removed documents kept of each filter
_NAMED = 20  # files of a source whose guessed encoding is recorded with their names ...
_SHOWN = 3  # ... and shown on the terminal
_STREAMED = "from a stream: files and a buffer of documents shuffled with the seed, not the whole data set"


@dataclass(frozen=True)
class Drawn:
    """The result of drawing: validation, the supply of other text, and the parts of the last round of reading."""

    candidates: Candidates
    validation: Validation
    supply: Supply
    last_parts: list[Part]

    @property
    def parts(self) -> list[Part]:
        """The parts of all rounds."""
        return [files.part for files in self.candidates.parts]


def describe(data: Data, drawn: Drawn, splits: dict[str, Written]) -> dict[str, Any]:
    """The manifest's `documents`, `sources` and `filters`, and `validation_origins` where files were cut.

    Documents found and passed over are counted in all text that was read, what filters removed in the documents drawn
    from it.
    """
    removed = filter_counts(drawn.candidates, len(data.filters))
    counts = {name: total(drawn.last_parts, name) for name in ("documents", "passed_over", "encodings", "guesses")}
    sources = []
    for number, source in enumerate(data.sources):
        entry = {
            "name": without_secrets(source.title),
            "documents_found": counts["documents"][str(number)],
            "passed_over": _of(counts["passed_over"], number),
            "train_tokens": splits["train"].by_source.get(number, 0),
            "validation_tokens": splits["validation"].by_source.get(number, 0),
        }
        if source.encoding == "auto":
            guesses = [guess.partition(" ") for guess in list(_of(counts["guesses"], number))[:_NAMED]]
            entry["encodings"] = _of(counts["encodings"], number)
            entry["guessed"] = [{"file": file, "encoding": encoding} for encoding, _, file in guesses]
        if source.dataset is not None:
            entry["drawn"] = _STREAMED
        sources.append(entry)
    reasons, rest, filters = total(drawn.parts, "reasons"), removed.sum(axis=0), []
    for number, step in enumerate(data.filters, start=1):
        before, rest = rest, rest - removed[number]
        filters.append(
            {
                "filter": step.title,
                "documents_in": int(before[0]),
                "documents_out": int(rest[0]),
                "tokens_in": int(before[1]),
                "tokens_out": int(rest[1]),
                "reasons": _of(reasons, number),
            }
        )
    documents = {split: splits[split].documents for split in ("train", "validation")}
    documents |= {"found": sum(counts["documents"].values()), "drawn": int(removed[:, 0].sum())}
    origins = origins_of(data, drawn.validation)
    cut_files = {} if origins is None else {"validation_origins": origins}
    return {"documents": documents, "sources": sources, "filters": filters, **cut_files}


def _of(counts: Counter[str], number: int) -> dict[str, int]:
    """The counts by reason of one source, or of one filter."""
    mark = f"{number} "
    return {reason.removeprefix(mark): n for reason, n in sorted(counts.items()) if reason.startswith(mark)}


def encoding_lines(sources: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each source in the manifest whose encodings were guessed."""
    for source in sources:
        if source.get("encodings"):
            counts = ", ".join(f"{count:,} in {name}" for name, count in source["encodings"].items())
            files = [f"{guess['file']} ({guess['encoding']})" for guess in source["guessed"][:_SHOWN]]
            more = ", ..." if len(source["guessed"]) > _SHOWN else ""
            named = f"; not UTF-8: {', '.join(files)}{more}" if files else ""
            yield f"data: encoding of {source['name']}, decided by the files' bytes: {counts}{named}"


def summary_line(manifest: dict[str, Any]) -> str:
    """How many tokens there are, and how many documents validation has."""
    origins = manifest.get("validation_origins")
    texts = "" if origins is None else f" from {_count(_separate(manifest), 'separate text')}"
    documents = _count(manifest["documents"]["validation"], "document")
    train, validation = (_with_targets(manifest, split) for split in ("training", "validation"))
    return f"data: {train}, {validation} of {documents}{texts}"


def _with_targets(manifest: dict[str, Any], split: str) -> str:
    """The tokens of a split, of conversations with those that count."""
    key = "train" if split == "training" else split
    targets = manifest.get("targets", {}).get(key)
    counted = "" if targets is None else f" ({targets:,} of them targets)"
    return f"{manifest['tokens'][key]:,} {split} tokens{counted}"


def few_documents(manifest: dict[str, Any]) -> str | None:
    """A warning where validation has too few documents for errors that hold for other text."""
    if _separate(manifest) >= DOCUMENTS:
        return None
    they = "documents" if manifest.get("validation_origins") is None else "separate texts"
    what = f"validation comes from fewer than {DOCUMENTS} {they}, so the standard errors of its losses are rough"
    return f"data: {what}; give text with more of them, or a larger data.validation"


def _separate(manifest: dict[str, Any]) -> int:
    """The documents of validation; those that were cut from one file count once."""
    origins = manifest.get("validation_origins")
    return manifest["documents"]["validation"] if origins is None else len({origin for origin, _ in origins})


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def write_removed(data: Data, drawn: Drawn, folder: Path) -> None:
    """Write some documents that each filter removed into a file of that filter."""
    picked: dict[int, list[tuple[int, int, int]]] = {}
    for part, rows in enumerate(drawn.candidates):
        for row in np.flatnonzero((rows["removed"] > 0) & (rows["removed"] != NOT_ADMITTED)).tolist():
            mine = picked.setdefault(int(rows["removed"][row]), [])
            mine.append((int(rows["training_key"][row]), part, row))
            if len(mine) > 100 * _SAMPLES:
                mine[:] = sorted(mine)[:_SAMPLES]
    for number, entries in picked.items():
        wanted = {(part, row) for _, part, row in sorted(entries)[:_SAMPLES]}
        folder.mkdir(exist_ok=True)
        with open_new(folder / f"{number}-{data.filters[number - 1].filter}.jsonl") as file:
            for part in sorted({part for part, _ in wanted}):
                for row, record in enumerate(records(drawn.parts[part].path)):
                    if (part, row) in wanted:
                        shown = {name: record[name] for name in ("place", "reason", "text")}
                        file.write((json.dumps(shown, ensure_ascii=False) + "\n").encode(errors="replace"))
