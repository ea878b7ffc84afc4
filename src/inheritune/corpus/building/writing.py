"""Writing shards of the drawn documents in their order. Finished shards are recorded, so each is written once."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inheritune.corpus.building.selection import Piece
from inheritune.data import Array, Tokens
from inheritune.runlog import open_new, read_json, write_json

SHARD_TOKENS = 250_000_000
_BLOCK_TOKENS = 2_000_000  # joined before they are written


@dataclass
class Written:
    """The shards of a split, as in the manifest, and counts of their documents."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    tokens: int = 0
    documents: int = 0
    by_source: dict[int, int] = field(default_factory=dict)
    largest: int = 0


def write_split(
    pieces: Iterable[Piece],
    tokens: Tokens,
    folder: Path,
    split: str,
    note: Path,
    shard_tokens: int | None = None,
    last: int | None = None,
    suffix: str = ".bin",
) -> Written:
    """Write pieces one after the other into `folder`, as SPLIT-00000.bin and so on; `tokens` may be their marks too.

    `last` replaces the last token of each piece, so that one that is cut ends as whole documents do; None: it stays.
    `tokens` has a file for each part; the file `note` lists the finished shards, which are not written again. Raises
    OSError for a disk that is full or gone.
    """
    done: list[dict[str, Any]] = read_json(note) if note.exists() else []
    written = Written()
    blocks = _blocks(pieces, tokens, written, sum(shard["tokens"] for shard in done), last)
    block = next(blocks, None)
    while block is not None:
        file = folder / f"{split}-{len(done):05d}{suffix}"
        shard, block = _write_shard(block, blocks, file, shard_tokens or SHARD_TOKENS)
        done.append(shard)
        write_json(note, done)
    written.largest = max(shard["largest"] for shard in done)
    written.shards = [{name: shard[name] for name in ("file", "tokens", "sha256")} for shard in done]
    return written


def _blocks(pieces: Iterable[Piece], tokens: Tokens, written: Written, skip: int, last: int | None) -> Iterator[Array]:
    """The tokens of the pieces in large blocks, without the first `skip` tokens."""
    held: list[Array] = []
    size = 0
    firsts = np.cumsum([0, *(shard.tokens for shard in tokens.shards)]).tolist()
    for piece in pieces:
        before = min(piece.tokens, max(0, skip - written.tokens))
        written.tokens += piece.tokens
        written.documents += 1
        written.by_source[piece.source] = written.by_source.get(piece.source, 0) + piece.tokens
        if before < piece.tokens:
            held.append(tokens.read(firsts[piece.part] + piece.start + before, piece.tokens - before))
            if last is not None:
                held[-1][-1] = last
            size += len(held[-1])
        if size >= _BLOCK_TOKENS:
            yield np.concatenate(held)
            held, size = [], 0
    if held:
        yield np.concatenate(held)


def _write_shard(
    block: Array, blocks: Iterator[Array], path: Path, shard_tokens: int
) -> tuple[dict[str, Any], Array | None]:
    """Fill one shard with `block` and those after it; returns its entry, and the rest of the last block."""
    digest, tokens, largest = hashlib.sha256(), 0, 0
    rest: Array | None = block
    with open_new(path) as file:
        while rest is not None and tokens < shard_tokens:
            now, rest = rest[: shard_tokens - tokens], rest[shard_tokens - tokens :]
            body = now.tobytes()
            file.write(body)
            digest.update(body)
            tokens += len(now)
            largest = max(largest, int(now.max(initial=0)))
            rest = rest if len(rest) else next(blocks, None)
        file.flush()
        os.fsync(file.fileno())
    return {"file": path.name, "tokens": tokens, "sha256": digest.hexdigest(), "largest": largest}, rest
