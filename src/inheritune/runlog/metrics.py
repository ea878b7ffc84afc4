"""metrics.jsonl: one JSON object per line and step, readable after every kill."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inheritune.limits import METRICS_BYTES, read_bytes
from inheritune.runlog.files import named, open_to_append, write_text


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file, each with its `step`. Damaged lines are ignored."""
    if not path.exists():
        return []
    records = []
    for line in read_bytes(path, METRICS_BYTES).split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


class MetricsLog:
    """Appends records. On opening it drops those that are not `is_kept`, so that no step is there twice."""

    def __init__(self, path: Path, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        self._path = path
        self._open(is_kept)

    def cut(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        """Drop records in the middle of a training."""
        self._file.close()
        self._open(is_kept)

    def _open(self, is_kept: Callable[[dict[str, Any]], bool]) -> None:
        kept = [record for record in read_metrics(self._path) if is_kept(record)]
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = io.TextIOWrapper(open_to_append(self._path), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append one record, which reaches the file at once and the disk with the next `sync`."""
        with named(self._path):
            self._file.write(json.dumps(record, allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Bring everything written so far to the disk, before a checkpoint that relies on it."""
        with named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Bring everything to the disk and close the file; it is closed already where `cut` failed."""
        if self._file.closed:
            return
        with named(self._path):
            try:
                self.sync()
            finally:
                self._file.close()
