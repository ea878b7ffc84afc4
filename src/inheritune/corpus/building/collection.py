"""From sources to candidates: the documents that may be drawn, filtered, in files of bounded size.

The work is done in tasks, each of which reads some inputs and writes parts; a task that was killed goes on behind its
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
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from inheritune.corpus.building.drawing import Gate, document_keys, text_digest
from inheritune.corpus.filters.filtering import DocumentFilter
from inheritune.corpus.sources.inputs import Input
from inheritune.corpus.sources.reading import read
from inheritune.errors import RunError
from inheritune.recipe import Source
from inheritune.runlog import checksum, named, open_new

_NAMED = 20  # files whose encoding was guessed, in a part


@dataclass
class Tally:
    """What a task met since its last part."""

    documents: Counter[int] = field(default_factory=Counter)  # by source
    characters: Counter[int] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)  # broken places, by the number of the source and reason
    reasons: Counter[str] = field(default_factory=Counter)  # removed documents, by the number of the filter and reason
    encodings: Counter[str] = field(default_factory=Counter)  # files by the number of the source and what was guessed
    guesses: Counter[str] = field(default_factory=Counter)  # the same with the file's name, for the first few of a part

    def plain(self) -> dict[str, dict[str, int]]:
        """As JSON, and empty again."""
        found = {name: {str(key): n for key, n in counter.items()} for name, counter in vars(self).items()}
        for counter in vars(self).values():
            counter.clear()
        return found


@dataclass(frozen=True)
class Reached:
    """How far a task has come: its input (that behind the last: all are read), the documents of it that were read."""

    input: int = 0
    documents: int = 0


@dataclass(frozen=True)
class Part:
    """A file of candidates, one JSON record a line, that was written to its end."""

    path: Path
    documents: int
    tally: dict[str, dict[str, int]]


class ReadSources(PipelineStep):  # type: ignore[misc]
    """Reads the inputs of a task and lets through what the gate admits and the one before did not."""

    name = "Sources"
    type = "Reader"

    def __init__(
        self, groups: list[list[Input]], sources: Sequence[Source], gates: tuple[Gate | None, Gate], seed: int,
        tally: Tally, folder: Path,
    ) -> None:  # fmt: skip
        super().__init__()
        self.groups, self.sources, self.gates, self.seed = groups, list(sources), gates, seed
        self.tally, self.folder = tally, folder

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The candidates of task `rank`, those left out that its parts hold already."""
        reached = _reached(self.folder, rank)
        for number, entry in enumerate(self.groups[rank]):
            if number >= reached.input:
                start = reached if number == reached.input else Reached(number)
                yield from self._read(entry, start)

    def _read(self, entry: Input, start: Reached) -> Iterator[Document]:
        source = self.sources[entry.source]
        known, characters = 0, 0

        def passed_over(place: str, reason: str) -> None:
            if known >= start.documents:
                self.tally.passed_over[f"{entry.source} {_kind(reason)}"] += 1

        def guessed(encoding: str) -> None:
            if not start.documents:  # else it is in a part already
                self.tally.encodings[f"{entry.source} {encoding}"] += 1
                if encoding != "utf-8" and len(self.tally.guesses) < _NAMED:
                    self.tally.guesses[f"{entry.source} {encoding} {entry.address}"] += 1

        for text in read(entry, source, passed_over, seed=self.seed, guessed=guessed):
            position = None if source.dataset is None else characters
            characters += len(text.text)
            known += 1
            if known <= start.documents:
                continue  # in a part already
            if position is not None and self._beyond(entry.source, position):
                return
            self.tally.documents[entry.source] += 1
            self.tally.characters[entry.source] += len(text.text)
            digest = text_digest(text.text)
            keys = document_keys(digest, self.seed)
            before, gate = self.gates
            if gate.admits(entry.source, keys, position) and not (
                before is not None and before.admits(entry.source, keys, position)
            ):
                reached = {"input": start.input, "documents": known}
                facts = {"source": entry.source, "keys": keys, "position": position, "reached": reached}
                yield Document(text=text.text, id=text.place, metadata=facts)

    def _beyond(self, source: int, position: int) -> bool:
        gate = self.gates[1]
        return position >= max(gate.validation[source].characters, gate.training[source].characters)


class JudgeDocuments(PipelineStep):  # type: ignore[misc]
    """Marks each document with the number of the first filter that removes it (0: kept)."""

    name = "Filters"
    type = "Filter"

    def __init__(self, judges: Sequence[tuple[int, DocumentFilter]], tally: Tally) -> None:
        super().__init__()
        self.judges, self.tally = list(judges), tally

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """The same documents, marked; a filter may have changed their text."""
        for document in data or ():
            facts = document.metadata
            facts["removed"] = 0
            for number, judge in self.judges:
                reason = judge.judge(document)
                if reason is not None:
                    facts.update(removed=number, reason=reason)
                    self.tally.reasons[f"{number} {reason}"] += 1
                    break
            yield document


class WriteParts(PipelineStep):  # type: ignore[misc]
    """Writes candidates into parts, each whole or not there, with what is needed to go on behind it."""

    name = "Parts"
    type = "Writer"

    def __init__(self, folder: Path, tally: Tally, part_bytes: int, inputs: Sequence[int]) -> None:
        """`inputs`: how many there are in each task."""
        super().__init__()
        self.folder, self.tally, self.part_bytes, self.inputs = folder, tally, part_bytes, list(inputs)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """Takes all documents; yields none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_collected(self.folder, rank, self.inputs[rank]):
            return  # ended before this was noted
        number = len(_sidecars(self.folder, rank))
        lines: list[bytes] = []
        size = 0
        for document in data or ():
            reached = document.metadata.pop("reached")
            lines.append(orjson.dumps(_record(document), option=orjson.OPT_APPEND_NEWLINE))
            size += len(lines[-1])
            if size >= self.part_bytes:
                self._write(rank, number, lines, reached)
                number, size, lines = number + 1, 0, []
        self._write(rank, number, lines, asdict(Reached(self.inputs[rank])))
        yield from ()

    def _write(self, rank: int, number: int, lines: list[bytes], reached: dict[str, int]) -> None:
        path = self.folder / f"{rank:05d}-{number:05d}.jsonl"
        body = b"".join(lines)
        facts = {
            "documents": len(lines), "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest(),
            "reached": reached, "tally": self.tally.plain(),
        }  # fmt: skip
        write_whole(path, body)
        write_whole(path.with_suffix(".json"), orjson.dumps(facts))


def write_whole(path: Path, body: bytes) -> None:
    """Write a file of the working folder so that it is there whole or not at all, whoever else writes the same."""
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")  # a cluster has equal numbers
    try:
        with named(path):
            with open_new(partial) as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # on a full disk it would be in the way


def _kind(reason: str) -> str:
    """A reason without what is special to one place: there may be as many of those as broken places."""
    return _in_utf8(re.split(r" \(|; ", reason)[0])


def _in_utf8(place: str) -> str:
    """A place as UTF-8 has it: bytes of a file name that are none are shown as escapes."""
    return place if place.isascii() else place.encode("utf-8", "backslashreplace").decode()


def _record(document: Document) -> dict[str, Any]:
    facts = document.metadata
    return {
        "text": document.text,
        "place": _in_utf8(document.id),
        "digest": text_digest(document.text).hex(),
        "source": facts["source"],
        "keys": facts["keys"],
        "position": facts["position"],
        "removed": facts["removed"],
        "reason": facts.get("reason"),
    }


def parts(folder: Path) -> list[Part]:
    """The parts in a folder, in the order of their tasks and numbers."""
    found = []
    for sidecar in sorted(folder.glob("[0-9]*.json")):
        facts = orjson.loads(sidecar.read_bytes())
        found.append(Part(sidecar.with_suffix(".jsonl"), facts["documents"], facts["tally"]))
    return found


def check_part(path: Path) -> None:
    """Raise RunError for a part that is not as it was written."""
    facts = orjson.loads(path.with_suffix(".json").read_bytes())
    if checksum(path) != facts["sha256"]:
        raise RunError(str(path), "changed since it was written", "delete it; the same command then makes it again")


def records(part: Part | Path) -> Iterator[dict[str, Any]]:
    """The records of a part, one after the other."""
    with (part.path if isinstance(part, Part) else part).open("rb") as file:
        for line in file:
            yield orjson.loads(line)


def is_collected(folder: Path, rank: int, inputs: int) -> bool:
    """Whether the parts of a task, which are all as long as they were, have all that its inputs gave."""
    return _reached(folder, rank).input == inputs


def drop_damaged(folder: Path, rank: int) -> None:
    """Remove what a task has behind its last part that is whole."""
    for sidecar in set(folder.glob(f"{rank:05d}-*.json")) - set(_sidecars(folder, rank)):
        sidecar.unlink()


def _is_whole(sidecar: Path) -> bool:
    try:
        return bool(sidecar.with_suffix(".jsonl").stat().st_size == orjson.loads(sidecar.read_bytes())["bytes"])
    except (OSError, orjson.JSONDecodeError):
        return False


def _sidecars(folder: Path, rank: int) -> list[Path]:
    """The sidecars of a task's parts whose files are as long as they say; a loss of power may have cut one."""
    found: list[Path] = []
    for number in itertools.count():  # looked for one by one, as a large corpus has very many in this folder
        sidecar = folder / f"{rank:05d}-{number:05d}.json"
        if not _is_whole(sidecar):
            return found
        found.append(sidecar)
    raise AssertionError  # not reached


def _reached(folder: Path, rank: int) -> Reached:
    found = _sidecars(folder, rank)
    return Reached(**orjson.loads(found[-1].read_bytes())["reached"]) if found else Reached()
