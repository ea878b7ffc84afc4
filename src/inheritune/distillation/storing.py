"""Outputs on the disk: computed once, in shards so that a killed computation resumes; opened and checked."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inheritune.data import Sequences, Shard, Tokens
from inheritune.distillation.choice import in_bytes
from inheritune.distillation.layout import Layout
from inheritune.distillation.outputs import OnlineOutputs, packed
from inheritune.errors import DamagedFile, InherituneError, InputError, OtherProcessFailed, RunError
from inheritune.runlog import logger, named, open_new, put_in_place, read_json, read_mapping, refuse_link, write_json
from inheritune.runtime import Runtime

MANIFEST = "manifest.json"
_SHARD = 2**25  # bytes, so that a kill costs seconds
_MOST_SHARDS = 4096
_LOGITS = 2**30  # bytes of float32 logits, and of what is stored, that the teacher computes at once
_BATCH = 8  # sequences at once, at most: the same whatever a training's micro-batch, as sums round with the shape
_MOMENT = 15.0  # seconds between two lines


@dataclass(frozen=True)
class Store:
    """A folder of outputs. `facts` are everything that they depend on."""

    folder: Path
    layout: Layout
    facts: dict[str, Any]

    @classmethod
    def of(cls, kept: Path, layout: Layout, facts: dict[str, Any]) -> "Store":
        """The folder in `kept` that is named by the facts."""
        text = json.dumps(facts, sort_keys=True).encode()
        return cls(kept / hashlib.sha256(text).hexdigest()[:16], layout, facts)

    @property
    def exists(self) -> bool:
        """Whether the outputs are there, all of them."""
        return (self.folder / MANIFEST).is_file()

    def open(self) -> tuple[Tokens, dict[str, Any]]:
        """All outputs as one row of 16-bit words, and the manifest.

        Raises InputError that names a file that is missing or damaged.
        """
        remedy = f"remove {self.folder}: the outputs are then computed again"
        try:
            manifest = read_json(self.folder / MANIFEST)
            shards = [
                Shard(self.folder / note["file"], note["sequences"] * self.layout.words, note["sha256"])
                for note in manifest["shards"]
            ]
        except (DamagedFile, KeyError, TypeError):
            raise InputError(str(self.folder / MANIFEST), "is damaged", remedy) from None
        return Tokens(shards, "uint16", remedy), manifest

    def verify(self, words: Tokens) -> None:
        """Read all files that have not been verified yet. Raises InputError that names a file that has changed."""
        note = self.folder.with_name(f"{self.folder.name}-verified.json")
        known = read_mapping(note) if note.exists() else {}
        verified = words.verify(known)
        if verified != known:
            write_json(note, verified)

    def make(self, sequences: Sequences, teacher: OnlineOutputs, runtime: Runtime) -> None:
        """Compute and write the outputs of all sequences; the processes share the shards.

        A shard counts once it is on the disk, and the folder gets its name when all shards are there. Raises RunError
        where the disk has too little room.
        """
        partial = self.folder.with_name(f".{self.folder.name}.partial")
        size = max(_SHARD, sequences.count * self.layout.size // _MOST_SHARDS)
        each = max(1, size // self.layout.size)
        firsts = range(0, sequences.count, each)

        def begin() -> list[int]:
            refuse_link(partial)
            partial.mkdir(parents=True, exist_ok=True)
            missing = [number for number in range(len(firsts)) if not _note(partial, number).exists()]
            missing_count = sum(min(each, sequences.count - firsts[number]) for number in missing)
            self._check_room(missing_count, sequences.count)
            return missing

        missing: list[int] = runtime.on_rank0(begin)
        work = _Work(self.layout, sequences, teacher, runtime.device)

        def share() -> None:
            for number in missing[runtime.dp_rank :: runtime.dp_size]:
                numbers = range(firsts[number], min(firsts[number] + each, sequences.count))
                work.write(partial, number, numbers)

        _all_do(share, runtime)
        runtime.on_rank0(lambda: self._finish(partial, len(firsts)))

    def _check_room(self, missing: int, count: int) -> None:
        """Report how much will be written. Raises RunError where the disk has no room for it."""
        needed, free = missing * self.layout.size, shutil.disk_usage(self.folder.parent).free
        amount = f"{in_bytes(count * self.layout.size)} ({count:,} sequences x {self.layout.size:,} bytes)"
        if missing < count:
            amount += f", of which {in_bytes(needed)} are missing"
        if needed > free:
            ways = ["make room", "set train.distillation.outputs to online"]
            if self.layout.top_k is not None:
                ways.insert(1, "lower train.distillation.top_k")
            elif self.layout.states:
                ways.insert(1, "set a small train.distillation.top_k")
            what = f"the teacher's outputs take {amount}, and {in_bytes(free)} are free"
            raise RunError(str(self.folder.parent), what, f"{', '.join(ways[:-1])}, or {ways[-1]}")
        logger.info(f"teacher: its outputs take {amount} in {self.folder}; {in_bytes(free)} are free")

    def _finish(self, partial: Path, shards: int) -> None:
        notes = [
            read_mapping(_note(partial, number), "seconds", "file", "sequences", "sha256") for number in range(shards)
        ]
        seconds = round(sum(note["seconds"] for note in notes), 3)
        write_json(partial / MANIFEST, {"of": self.facts, "seconds": seconds, "shards": notes})
        for number in range(shards):
            _note(partial, number).unlink()
        put_in_place(partial, self.folder)


def _note(partial: Path, number: int) -> Path:
    """The file that marks a shard as complete."""
    return partial / f"outputs-{number:05d}.json"


@dataclass
class _Work:
    """Runs the teacher on sequences and writes its outputs."""

    layout: Layout
    sequences: Sequences
    teacher: OnlineOutputs
    device: str

    def __post_init__(self) -> None:
        self._reported = time.monotonic()

    def write(self, partial: Path, number: int, numbers: range) -> None:
        """One shard, and then the note that it is complete."""
        file = partial / f"outputs-{number:05d}.bin"
        digest, began = hashlib.sha256(), time.monotonic()
        with named(file), open_new(file) as opened:
            for first in range(numbers.start, numbers.stop, batch_size(self.layout)):
                data = self.compute(range(first, min(first + batch_size(self.layout), numbers.stop)))
                opened.write(data)
                digest.update(data)
                self._report(first)
            opened.flush()
            os.fsync(opened.fileno())
        note = {"file": file.name, "sequences": len(numbers), "sha256": digest.hexdigest()}
        write_json(_note(partial, number), note | {"seconds": round(time.monotonic() - began, 3)})

    def compute(self, numbers: range) -> bytes:
        """The outputs for some sequences, as they are stored. All batches are filled up to one shape."""
        layout = self.layout
        filled = [*numbers, *[numbers.start] * (batch_size(layout) - len(numbers))]
        examples = self.sequences.rows(filled).examples().to(self.device)
        with torch.no_grad():
            taught = self.teacher(examples.inputs, positions=examples.positions, places=examples.places)
            return b"".join(packed(taught, layout, _LOGITS // 4)[: len(numbers)])

    def _report(self, done: int) -> None:
        if time.monotonic() - self._reported >= _MOMENT:
            self._reported = time.monotonic()
            logger.info(f"teacher: outputs of {done:,} of {self.sequences.count:,} sequences")


def batch_size(layout: Layout) -> int:
    """Sequences in a batch of the teacher: a function of the shape only, so that no setting changes a bit."""
    largest = max(4 * layout.sequence_length * layout.vocabulary, layout.size)
    return int(np.clip(_LOGITS // largest, 1, _BATCH))


def _all_do(work: Callable[[], None], runtime: Runtime) -> None:
    """Let each process do its own work. Where one fails, all raise an error with its exit status."""
    failure: Exception | None = None
    try:
        work()
    except Exception as error:
        failure = error
    status = 0 if failure is None else failure.exit_status if isinstance(failure, InherituneError) else 1
    statuses = runtime.gather(status)
    if failure is not None:
        raise failure
    if any(statuses):
        raise OtherProcessFailed(max(statuses))
