"""Drawn documents, in their order, as shards, each noted when it is finished: a killed process goes on behind it."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.shards import Tokens
from inheritune.runlog import open_new, read_json, write_json

if TYPE_CHECKING:
    from inheritune.corpus.building.selection import Piece

SHARD_TOKENS = 250_000_000
_BLOCK_TOKENS = 2_000_000  # joined before they are written


@dataclass
class Written:
    """The shards of one split, as the manifest has them, and what went into them."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    documents: int = 0
    by_source: dict[int, int] = field(default_factory=dict)
    largest: int = 0

    def count(self, piece: "Piece") -> None:
        """Count a document in."""
        self.tokens += piece.tokens
        self.documents += 1
        self.by_source[piece.source] = self.by_source.get(piece.source, 0) + piece.tokens


def write_split(
    pieces: "Iterable[Piece]",
    tokens: Tokens,
    folder: Path,
    split: str,
    note: Path,
    shard_tokens: int = SHARD_TOKENS,
) -> Written:
    """Write pieces one behind the other into `folder`, as SPLIT-00000.bin and so on.

    `tokens` has a file for each part; the finished shards are listed in the file `note`. Raises OSError for a disk
    that is full or gone; the shards that were finished are then not written again.
    """
    done: list[dict[str, Any]] = read_json(note) if note.exists() else []
    written = Written()
    blocks = _blocks(pieces, tokens, written, sum(shard["tokens"] for shard in done))
    left = next(blocks, None)
    while left is not None:
        shard, left = _write_shard(left, blocks, folder / f"{split}-{len(done):05d}.bin", shard_tokens)
        done.append(shard)
        write_json(note, done)
    written.largest = max(shard["largest"] for shard in done)
    written.shards = [{name: shard[name] for name in ("file", "tokens", "sha256")} for shard in done]
    return written


def _blocks(pieces: "Iterable[Piece]", tokens: Tokens, written: Written, skip: int) -> "Iterator[np.ndarray[Any, Any]]":
    """The pieces' tokens, joined; the first `skip` tokens are left out."""
    held: list[np.ndarray[Any, Any]] = []
    size = 0
    firsts = np.cumsum([0, *(shard.tokens for shard in tokens.shards)]).tolist()
    for piece in pieces:
        before = min(piece.tokens, max(0, skip - written.tokens))
        written.count(piece)
        if before < piece.tokens:
            held.append(tokens.read(firsts[piece.part] + piece.start + before, piece.tokens - before))
            size += len(held[-1])
        if size >= _BLOCK_TOKENS:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def _write_shard(
    block: "np.ndarray[Any, Any]", blocks: "Iterator[np.ndarray[Any, Any]]", path: Path, shard_tokens: int
) -> "tuple[dict[str, Any], np.ndarray[Any, Any] | None]":
    """Fill one shard with `block` and those behind it; returns its entry, and what did not fit any more."""
    digest, tokens, largest = hashlib.sha256(), 0, 0
    left: np.ndarray[Any, Any] | None = block
    with open_new(path) as file:
        while left is not None and tokens < shard_tokens:
            now, rest = left[: shard_tokens - tokens], left[shard_tokens - tokens :]
            body = now.tobytes()
            file.write(body)
            digest.update(body)
            tokens += len(now)
            largest = max(largest, int(now.max(initial=0)))
            left = rest if len(rest) else next(blocks, None)
        file.flush()
        os.fsync(file.fileno())
    return {"file": path.name, "tokens": tokens, "sha256": digest.hexdigest(), "largest": largest}, left
