"""What tells files from the same ones after a change, and how much text is in them."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.corpus.sources.storage import kind, packing

if TYPE_CHECKING:
    from inheritune.corpus.sources.inputs import Input

_PACKED = 4  # bytes of text in a byte of a compressed file


def text_bytes(entry: "Input") -> int:
    """Bytes of text in an input, about."""
    packed = packing(entry.address) is not None or kind(entry.address) == ".parquet"
    return (entry.length or 0) * (_PACKED if packed else 1)


def state_of(entry: "Input") -> dict[str, Any]:
    """What tells a file from the same one after a change."""
    return {**asdict(entry), "file": _stamp(entry.address)}


def _stamp(file: str) -> list[int] | None:
    """Size and time of the last change; None for what is no file here."""
    try:
        found = os.stat(file)  # noqa: PTH116 (text, as there may be millions)
    except (OSError, ValueError):
        return None
    return [found.st_size, found.st_mtime_ns]


def file_states(entry: Any) -> dict[str, Any]:
    """The files that a filter reads, and what tells them from the same ones after a change."""
    paths = [path for value in dict(entry).values() for path in (value if isinstance(value, list) else [value])]
    roots = [path for path in paths if isinstance(path, Path)]
    return {str(file): _stamp(str(file)) for root in roots for file in (root, *sorted(root.rglob("*")))}
