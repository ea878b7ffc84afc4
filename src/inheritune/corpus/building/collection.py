"""From sources to candidates: the documents below the thresholds, filtered, in files of bounded size.

The work is split into tasks, each of which reads some inputs and writes parts. A task that was killed resumes after its
last part.
"""

import hashlib
import itertools
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from inheritune.corpus.building.drawing import Thresholds, document_keys, text_digest
from inheritune.corpus.filters.base import DocumentFilter
from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.reading import read
from inheritune.data import ChatTemplate
from inheritune.errors import RunError
from inheritune.recipe import Source
from inheritune.runlog import checksum, write_bytes

_NAMED = 20  # files of a part whose guessed encoding is recorded


COUNTS = (
    "documents",  # by source, as "NUMBER"; the keys of the others begin with the number of a source or of a filter
    "characters",  # by source
    "passed_over",  # unreadable texts, by source and reason
    "reasons",  # removed documents, by filter and reason
    "encodings",  # files, by source and guessed encoding
    "guesses",  # files, by source, guessed encoding and name, for the first few of a part
)
"""What a task counts for each part."""


@dataclass(frozen=True)
class Reached:
    """How far a task is: the number of its input (after the last one, their count), and the documents read of it."""

    input: int = 0
    documents: int = 0


@dataclass(frozen=True)
class Part:
    """A complete file of candidates, one JSON record a line."""

    path: Path
    counts: dict[str, dict[str, int]]


@dataclass(repr=False)  # datatrove would write a long one into each log
class Collect:
    """A step: reads and filters the documents of a task's inputs, and writes the candidates into parts.

    Candidates are the documents that `thresholds` admit and `before` did not. A part is complete or absent, and has
    what is needed to resume after it.
    """

    groups: list[list[Input]]
    """The inputs of each task."""
    sources: list[Source]
    thresholds: Thresholds
    before: Thresholds | None
    seed: int
    filters: list[tuple[int, DocumentFilter]]
    work: Path
    folder: Path
    part_bytes: int
    template: ChatTemplate | None = None
    """That of conversations."""

    def __call__(self, data: None, rank: int, world_size: int) -> None:
        """Write the parts of task `rank` that do not exist yet."""
        start, self.counts = _reached(self.folder, rank), _zeros()
        end = Reached(len(self.groups[rank]))
        if start == end:
            return  # a kill came before the task was recorded as complete
        number = len(_sidecars(self.folder, rank))
        lines: list[bytes] = []
        size = 0
        for document, reached in self._filtered(rank, start):
            lines.append(orjson.dumps(_record(document), option=orjson.OPT_APPEND_NEWLINE))
            size += len(lines[-1])
            if size >= self.part_bytes:
                self._write(rank, number, lines, reached)
                number, size, lines = number + 1, 0, []
        self._write(rank, number, lines, end)

    def _filtered(self, rank: int, start: Reached) -> Iterator[tuple[Document, Reached]]:
        """The candidates, each marked with the number of the first filter that removes it (0: kept).

        A filter may change the text. Models are loaded with the first document.
        """
        filters = None
        for document, reached in self._candidates(rank, start):
            facts = document.metadata
            facts["removed"] = 0
            filters = filters or [(number, entry.build(self.work)) for number, entry in self.filters]
            for number, removal_reason in filters:
                reason = removal_reason(document)
                if reason is not None:
                    facts.update(removed=number, reason=reason)
                    self.counts["reasons"][f"{number} {reason}"] += 1
                    break
            yield document, reached

    def _candidates(self, rank: int, start: Reached) -> Iterator[tuple[Document, Reached]]:
        """The candidates that are not in a part yet, each with how far the task is after it."""
        for number, entry in enumerate(self.groups[rank]):
            if number >= start.input:
                yield from self._read(entry, start if number == start.input else Reached(number))

    def _read(self, entry: Input, start: Reached) -> Iterator[tuple[Document, Reached]]:
        number, source = entry.source, self.sources[entry.source]
        file = int.from_bytes(text_digest(_in_utf8(entry.address))[:8], "big")
        documents, characters = 0, 0

        def passed_over(place: str, reason: str) -> None:
            if documents >= start.documents:
                # Without the details of one place: there may be as many of those as broken places.
                kind = _in_utf8(re.split(r" \(|; ", reason)[0])
                self.counts["passed_over"][f"{number} {kind}"] += 1

        def guessed(encoding: str) -> None:
            if not start.documents:  # else it is in a part already
                self.counts["encodings"][f"{number} {encoding}"] += 1
                if encoding != "utf-8" and len(self.counts["guesses"]) < _NAMED:
                    self.counts["guesses"][f"{number} {encoding} {entry.address}"] += 1

        for text in read(entry, source, passed_over, seed=self.seed, guessed=guessed, template=self.template):
            position = None if source.dataset is None else characters
            characters += len(text.text)
            documents += 1
            if documents <= start.documents:
                continue  # in a part already
            if position is not None and position >= self.thresholds.characters(number):
                return
            self.counts["documents"][str(number)] += 1
            self.counts["characters"][str(number)] += len(text.text)
            keys = document_keys(text_digest(text.text), self.seed)
            if self.thresholds.admits(number, keys, position) and not (
                self.before is not None and self.before.admits(number, keys, position)
            ):
                origin = None if text.offset is None else (file, text.offset)
                facts = {"source": number, "keys": keys, "position": position, "origin": origin}
                facts |= {} if text.counted is None else {"counted": text.counted}
                yield Document(text=text.text, id=text.place, metadata=facts), Reached(start.input, documents)

    def _write(self, rank: int, number: int, lines: list[bytes], reached: Reached) -> None:
        path = self.folder / f"{rank:05d}-{number:05d}.jsonl"
        body = b"".join(lines)
        facts = {
            "documents": len(lines), "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(),
            "reached": asdict(reached), "tally": self.counts,  # "tally": as in the first version, whose parts are read
        }  # fmt: skip
        self.counts = _zeros()
        write_whole(path, body)
        write_whole(path.with_suffix(".json"), orjson.dumps(facts))


def write_whole(path: Path, body: bytes) -> None:
    """Write a file of the working folder, which other processes and machines may write at the same time."""
    write_bytes(path, body, f"{platform.node()}.{os.getpid()}")


def _zeros() -> dict[str, Counter[str]]:
    return {name: Counter() for name in COUNTS}


def _in_utf8(place: str) -> str:
    """A place as UTF-8, with escapes for other bytes of a file name."""
    return place if place.isascii() else place.encode("utf-8", "backslashreplace").decode()


def _record(document: Document) -> dict[str, Any]:
    facts = document.metadata
    return {
        "text": document.text,
        "place": _in_utf8(document.id),
        "digest": text_digest(document.text).hex(),
        **{name: facts[name] for name in ("source", "keys", "position", "origin", "removed")},
        "reason": facts.get("reason"),
        **({"counted": facts["counted"]} if "counted" in facts else {}),
    }


def parts(folder: Path) -> list[Part]:
    """The parts in a folder, in the order of their tasks and numbers."""
    loaded = ((sidecar, orjson.loads(sidecar.read_bytes())) for sidecar in sorted(folder.glob("[0-9]*.json")))
    return [Part(sidecar.with_suffix(".jsonl"), facts["tally"]) for sidecar, facts in loaded]


def total(some: Sequence[Part], name: str) -> Counter[str]:
    """One of `COUNTS`, over several parts."""
    counts: Counter[str] = Counter()
    for part in some:
        counts.update(part.counts[name])
    return counts


def check_part(path: Path) -> None:
    """Raise RunError for a part that changed since it was written."""
    if checksum(path) != orjson.loads(path.with_suffix(".json").read_bytes())["sha256"]:
        raise RunError(str(path), "changed since it was written", "delete it; the same command then makes it again")


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a part."""
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def is_collected(folder: Path, rank: int, inputs: int) -> bool:
    """Whether the parts of a task have their full sizes and hold all documents of its inputs."""
    return _reached(folder, rank).input == inputs


def drop_damaged(folder: Path, rank: int) -> None:
    """Remove the parts of a task after its last complete one."""
    for sidecar in set(folder.glob(f"{rank:05d}-*.json")) - set(_sidecars(folder, rank)):
        sidecar.unlink()


def _is_whole(sidecar: Path) -> bool:
    try:
        return bool(sidecar.with_suffix(".jsonl").stat().st_size == orjson.loads(sidecar.read_bytes())["bytes"])
    except (OSError, orjson.JSONDecodeError):
        return False


def _sidecars(folder: Path, rank: int) -> list[Path]:
    """The sidecars of a task's parts, up to the first part of another size, which a loss of power may have cut."""
    numbered = (folder / f"{rank:05d}-{number:05d}.json" for number in itertools.count())  # a folder may have very many
    return list(itertools.takewhile(_is_whole, numbered))


def _reached(folder: Path, rank: int) -> Reached:
    done = _sidecars(folder, rank)
    return Reached(**orjson.loads(done[-1].read_bytes())["reached"]) if done else Reached()
