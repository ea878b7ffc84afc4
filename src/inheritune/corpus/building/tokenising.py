"""Candidates as tokens: for each part a file of tokens and an index with a row for each document."""

import hashlib
import io
import itertools
import json
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inheritune.corpus.building.collection import Part, check_part, records, write_whole
from inheritune.data import Array, ChatTemplate, Encoder, Rendered
from inheritune.runlog import checksum

INDEX = np.dtype(
    [
        ("validation_key", "<u8"),
        ("training_key", "<u8"),
        ("digest", "<u8", (2,)),
        ("position", "<i8"),  # characters of its stream before it; -1 for a document of a file
        ("origin", "<u8"),  # the file that it was cut from ...
        ("offset", "<i8"),  # ... and the characters of that file before it; -1 for a document that was not cut out
        ("tokens", "<u4"),  # end-of-text included, where it follows
        ("source", "<u2"),
        ("removed", "u1"),  # the number of the filter that removed it, from 1; 0: kept
    ]
)
"""A row for each document, in the order of the part. The tokens of removed documents are counted, not kept."""

_AHEAD = 2  # batches
_BATCH_CHARACTERS = 1_000_000
_BATCH_DOCUMENTS = 1_000


@dataclass(frozen=True)
class TokenPart:
    """A part, and its tokens and index rows in a folder."""

    part: Part
    folder: Path

    @property
    def tokens(self) -> Path:
        """The file of the kept documents' tokens."""
        return self.folder / f"{self.part.path.stem}.bin"

    @property
    def index(self) -> Path:
        """The file of the index rows."""
        return self.tokens.with_suffix(".npy")

    @property
    def marks(self) -> Path:
        """The file of the marks of the kept conversations' tokens."""
        return self.tokens.with_suffix(".marks")

    @property
    def note(self) -> Path:
        """The file of the checksums."""
        return self.tokens.with_suffix(".json")

    def load_index(self) -> Array:
        """The index rows, shape (documents,)."""
        rows: Array = np.load(self.index)
        return rows

    def write(self, tokens: bytes, index: bytes, marks: bytes | None) -> None:
        """Write all files, the checksums last; `marks` are those of conversations."""
        bodies = {self.tokens: tokens, self.index: index} | ({} if marks is None else {self.marks: marks})
        for file, body in bodies.items():
            write_whole(file, body)
        write_whole(self.note, json.dumps([hashlib.sha256(body).hexdigest() for body in bodies.values()]).encode())

    def is_whole(self) -> bool:
        """Whether all are as they were written."""
        try:
            sums = json.loads(self.note.read_bytes())
            files = (self.tokens, self.index, self.marks)[: len(sums)]
            return bool(sums == [checksum(file) for file in files])
        except (OSError, ValueError, TypeError):
            return False


@dataclass(repr=False)  # datatrove would write a long one into each log
class TokeniseParts:
    """A step: tokenises the part of each rank, with the token `end_of_text` after every document.

    Conversations are tokenised and marked by their `template`, and nothing follows them.
    """

    parts: list[TokenPart]
    encoder: Encoder
    dtype: "np.dtype[Any]"
    end_of_text: int
    template: ChatTemplate | None = None

    def __call__(self, data: None, rank: int, world_size: int) -> None:
        """Write the files of part number `rank`, unless they exist.

        Raises RunError for a part that has changed since it was written.
        """
        files = self.parts[rank]
        if files.note.exists():
            return
        check_part(files.part.path)
        body, marks, rows = bytearray(), bytearray(), []
        for batch, encoded in self._encoded(files.part.path):
            for record, (ids, own_marks) in zip(batch, encoded, strict=True):
                if not record["removed"]:
                    body += array(self.dtype.char, ids).tobytes()
                    marks += own_marks.tobytes()
                halves = tuple(int(record["digest"][at : at + 16], 16) for at in (0, 16))
                position = -1 if record["position"] is None else record["position"]
                origin = record["origin"] or (0, -1)
                facts = len(ids), record["source"], record["removed"]
                rows.append((*record["keys"], halves, position, *origin, *facts))
        index = io.BytesIO()
        np.save(index, np.array(rows, dtype=INDEX))
        files.write(bytes(body), index.getvalue(), None if self.template is None else bytes(marks))

    def _encode(self, batch: list[dict[str, Any]]) -> list[tuple[list[int], Array]]:
        """The ids of each record's document, with its end, and the marks of a conversation."""
        if self.template is not None:
            return self.template.encode([Rendered(one["text"], one["counted"]) for one in batch])
        none = np.zeros(0, np.uint8)
        return [([*ids, self.end_of_text], none) for ids in self.encoder.encode([one["text"] for one in batch])]

    def _encoded(self, part: Path) -> Iterator[tuple[list[dict[str, Any]], list[tuple[list[int], Array]]]]:
        """Batches of records and their tokens; two more are encoded meanwhile, on all cores."""
        batches = _batches(records(part))
        with ThreadPoolExecutor(_AHEAD) as threads:
            ahead: deque[tuple[list[dict[str, Any]], Future[list[tuple[list[int], Array]]]]] = deque()
            for batch in itertools.chain(batches, [None] * _AHEAD):
                if batch is not None:
                    ahead.append((batch, threads.submit(self._encode, batch)))
                if len(ahead) > _AHEAD or (batch is None and ahead):
                    done, encoded = ahead.popleft()
                    yield done, encoded.result()


def _batches(some: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for record in some:
        batch.append(record)
        size += len(record["text"])
        if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
