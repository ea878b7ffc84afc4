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
from inheritune.data import Array, Encoder
from inheritune.runlog import checksum

INDEX = np.dtype(
    [
        ("validation_key", "<u8"),
        ("training_key", "<u8"),
        ("digest", "<u8", (2,)),
        ("position", "<i8"),  # characters of its stream before it; -1 for a document of a file
        ("origin", "<u8"),  # the file that it was cut from ...
        ("offset", "<i8"),  # ... and the characters of that file before it; -1 for a document that was not cut out
        ("tokens", "<u4"),  # end-of-text included
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
    def note(self) -> Path:
        """The file of both checksums."""
        return self.tokens.with_suffix(".json")

    def load_index(self) -> Array:
        """The index rows, shape (documents,)."""
        rows: Array = np.load(self.index)
        return rows

    def write(self, tokens: bytes, index: bytes) -> None:
        """Write all three files, the checksums last."""
        write_whole(self.tokens, tokens)
        write_whole(self.index, index)
        write_whole(self.note, json.dumps([hashlib.sha256(body).hexdigest() for body in (tokens, index)]).encode())

    def is_whole(self) -> bool:
        """Whether both are as they were written."""
        try:
            return bool(json.loads(self.note.read_bytes()) == [checksum(self.tokens), checksum(self.index)])
        except (OSError, ValueError):
            return False


@dataclass(repr=False)  # datatrove would write a long one into each log
class TokeniseParts:
    """A step: tokenises the part of each rank, with the token `end_of_text` after every document."""

    parts: list[TokenPart]
    encoder: Encoder
    dtype: "np.dtype[Any]"
    end_of_text: int

    def __call__(self, data: None, rank: int, world_size: int) -> None:
        """Write the two files of part number `rank`, unless they exist.

        Raises RunError for a part that has changed since it was written.
        """
        files = self.parts[rank]
        if files.note.exists():
            return
        check_part(files.part.path)
        body, rows = bytearray(), []
        for batch, encoded in self._encoded(files.part.path):
            for record, ids in zip(batch, encoded, strict=True):
                if not record["removed"]:
                    body += array(self.dtype.char, [*ids, self.end_of_text]).tobytes()
                halves = tuple(int(record["digest"][at : at + 16], 16) for at in (0, 16))
                position = -1 if record["position"] is None else record["position"]
                origin = record["origin"] or (0, -1)
                facts = len(ids) + 1, record["source"], record["removed"]
                rows.append((*record["keys"], halves, position, *origin, *facts))
        index = io.BytesIO()
        np.save(index, np.array(rows, dtype=INDEX))
        files.write(bytes(body), index.getvalue())

    def _encoded(self, part: Path) -> Iterator[tuple[list[dict[str, Any]], list[list[int]]]]:
        """Batches of records and their tokens; two more are encoded meanwhile, on all cores."""
        batches = _batches(records(part))
        with ThreadPoolExecutor(_AHEAD) as threads:
            ahead: deque[tuple[list[dict[str, Any]], Future[list[list[int]]]]] = deque()
            for batch in itertools.chain(batches, [None] * _AHEAD):
                if batch is not None:
                    ahead.append((batch, threads.submit(self.encoder.encode, [record["text"] for record in batch])))
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
