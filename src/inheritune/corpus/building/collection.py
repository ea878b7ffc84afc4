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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
from datatrove.data import Document

from inheritune.corpus.building.drawing import Thresholds, document_keys, text_digest
from inheritune.corpus.filters.base import DocumentFilter
from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.reading import read
from inheritune.errors import RunError
from inheritune.recipe import Source
from inheritune.runlog import checksum, write_bytes

_NAMED = 20  # files of a part whose guessed encoding is recorded


@dataclass
class Counts:
    """What a task counted since its last part. The keys begin with the number of a source or of a filter."""

    documents: Counter[str] = field(default_factory=Counter)  # by source
    characters: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)  # texts that cannot be read, by source and reason
    reasons: Counter[str] = field(default_factory=Counter)  # removed documents, by filter and reason
    encodings: Counter[str] = field(default_factory=Counter)  # files by source and guessed encoding
    guesses: Counter[str] = field(default_factory=Counter)  # the same with the file's name, for the first few of a part

    def take(self) -> dict[str, dict[str, int]]:
        """The counts as JSON; they begin again at zero."""
        taken = {name: dict(counter) for name, counter in vars(self).items()}
        for counter in vars(self).values():
            counter.clear()
        return taken


@dataclass(frozen=True)
class Reached:
    """How far a task is: the number of its input (that after the last: all are read), and the documents read of it."""

    input: int = 0
    documents: int = 0


@dataclass(frozen=True)
class Part:
    """A complete file of candidates, one JSON record a line."""

    path: Path
    counts: dict[str, dict[str, int]]


@dataclass(repr=False)  # datatrove would write a long one into each log
class ReadSources:
    """A step: reads the inputs of a task and yields the documents that `thresholds` admit and `before` did not."""

    groups: list[list[Input]]
    sources: list[Source]
    thresholds: Thresholds
    before: Thresholds | None
    seed: int
    counts: Counts
    folder: Path

    def __call__(self, data: None, rank: int, world_size: int) -> Iterator[Document]:
        """The candidates of task `rank` that are not in its parts yet."""
        reached = _reached(self.folder, rank)
        for number, entry in enumerate(self.groups[rank]):
            if number >= reached.input:
                yield from self._read(entry, reached if number == reached.input else Reached(number))

    def _read(self, entry: Input, start: Reached) -> Iterator[Document]:
        number, source = entry.source, self.sources[entry.source]
        documents, characters = 0, 0

        def passed_over(place: str, reason: str) -> None:
            if documents >= start.documents:
                self.counts.passed_over[f"{number} {_kind(reason)}"] += 1

        def guessed(encoding: str) -> None:
            if not start.documents:  # else it is in a part already
                self.counts.encodings[f"{number} {encoding}"] += 1
                if encoding != "utf-8" and len(self.counts.guesses) < _NAMED:
                    self.counts.guesses[f"{number} {encoding} {entry.address}"] += 1

        for text in read(entry, source, passed_over, seed=self.seed, guessed=guessed):
            position = None if source.dataset is None else characters
            characters += len(text.text)
            documents += 1
            if documents <= start.documents:
                continue  # in a part already
            if position is not None and position >= self.thresholds.characters(number):
                return
            self.counts.documents[str(number)] += 1
            self.counts.characters[str(number)] += len(text.text)
            keys = document_keys(text_digest(text.text), self.seed)
            if self.thresholds.admits(number, keys, position) and not (
                self.before is not None and self.before.admits(number, keys, position)
            ):
                reached = {"input": start.input, "documents": documents}
                facts = {"source": number, "keys": keys, "position": position, "reached": reached}
                yield Document(text=text.text, id=text.place, metadata=facts)


@dataclass(repr=False)  # datatrove would write a long one into each log
class FilterDocuments:
    """A step: marks each document with the number of the first filter that removes it (0: kept)."""

    filters: list[tuple[int, DocumentFilter]]
    work: Path
    counts: Counts

    def __call__(self, data: Iterator[Document], rank: int, world_size: int) -> Iterator[Document]:
        """The same documents, marked; a filter may have changed their text. Models load with the first document."""
        built = None
        for document in data:
            facts = document.metadata
            facts["removed"] = 0
            built = built or [(number, entry.build(self.work)) for number, entry in self.filters]
            for number, removal_reason in built:
                reason = removal_reason(document)
                if reason is not None:
                    facts.update(removed=number, reason=reason)
                    self.counts.reasons[f"{number} {reason}"] += 1
                    break
            yield document


@dataclass(repr=False)  # datatrove would write a long one into each log
class WriteParts:
    """A step: writes candidates into parts, each complete or absent, with what is needed to resume after it."""

    folder: Path
    counts: Counts
    part_bytes: int
    inputs: list[int]
    """The number of inputs of each task."""

    def __call__(self, data: Iterator[Document], rank: int, world_size: int) -> None:
        """Take all documents."""
        if is_collected(self.folder, rank, self.inputs[rank]):
            return  # it ended before its end was recorded
        number = len(_sidecars(self.folder, rank))
        lines: list[bytes] = []
        size = 0
        for document in data:
            reached = document.metadata.pop("reached")
            lines.append(orjson.dumps(_record(document), option=orjson.OPT_APPEND_NEWLINE))
            size += len(lines[-1])
            if size >= self.part_bytes:
                self._write(rank, number, lines, reached)
                number, size, lines = number + 1, 0, []
        self._write(rank, number, lines, asdict(Reached(self.inputs[rank])))

    def _write(self, rank: int, number: int, lines: list[bytes], reached: dict[str, int]) -> None:
        path = self.folder / f"{rank:05d}-{number:05d}.jsonl"
        body = b"".join(lines)
        facts = {
            "documents": len(lines), "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(),
            "reached": reached, "tally": self.counts.take(),  # the key of the first version, whose parts are still read
        }  # fmt: skip
        write_whole(path, body)
        write_whole(path.with_suffix(".json"), orjson.dumps(facts))


def write_whole(path: Path, body: bytes) -> None:
    """Write a file of the working folder, which other processes, on other machines too, may write at the same time."""
    write_bytes(path, body, f"{platform.node()}.{os.getpid()}")


def _kind(reason: str) -> str:
    """A reason without the details of one place: there may be as many of those as broken places."""
    return _in_utf8(re.split(r" \(|; ", reason)[0])


def _in_utf8(place: str) -> str:
    """A place as UTF-8, with escapes for the bytes of a file name that are not."""
    return place if place.isascii() else place.encode("utf-8", "backslashreplace").decode()


def _record(document: Document) -> dict[str, Any]:
    facts = document.metadata
    return {
        "text": document.text,
        "place": _in_utf8(document.id),
        "digest": text_digest(document.text).hex(),
        **{name: facts[name] for name in ("source", "keys", "position", "removed")},
        "reason": facts.get("reason"),
    }


def parts(folder: Path) -> list[Part]:
    """The parts in a folder, in the order of their tasks and numbers."""
    loaded = ((sidecar, orjson.loads(sidecar.read_bytes())) for sidecar in sorted(folder.glob("[0-9]*.json")))
    return [Part(sidecar.with_suffix(".jsonl"), facts["tally"]) for sidecar, facts in loaded]


def total(some: Sequence[Part], name: str) -> Counter[str]:
    """One of the counts of `Counts`, over several parts."""
    counts: Counter[str] = Counter()
    for part in some:
        counts.update(part.counts[name])
    return counts


def check_part(path: Path) -> None:
    """Raise RunError for a part that changed since it was written."""
    if checksum(path) != orjson.loads(path.with_suffix(".json").read_bytes())["sha256"]:
        raise RunError(str(path), "changed since it was written", "delete it; the same command then makes it again")


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a part, one after the other."""
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
    """The sidecars of a task's parts up to the first whose file has another size; a loss of power may have cut it."""
    numbered = (folder / f"{rank:05d}-{number:05d}.json" for number in itertools.count())  # a folder may have very many
    return list(itertools.takewhile(_is_whole, numbered))


def _reached(folder: Path, rank: int) -> Reached:
    done = _sidecars(folder, rank)
    return Reached(**orjson.loads(done[-1].read_bytes())["reached"]) if done else Reached()
