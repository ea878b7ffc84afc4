"""Shards: files of little-endian uint16 or uint32 tokens; several form one long row."""

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from inheritune.errors import InputError, RunError
from inheritune.runlog import checksum

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = ("uint16", "uint32")
_OPEN_FILES = 256  # open at once: fewer than systems allow


@dataclass(frozen=True)
class Shard:
    """One file of a row: its number of tokens, the SHA-256 of its bytes, and the bytes before the first token."""

    file: Path
    tokens: int
    sha256: str
    offset: int = 0


class Tokens:
    """One long row of tokens over several files, of which only the requested parts are read.

    It uses pread, not a memory map: a file that can no longer be read gives an error, not a signal that ends the
    process, and its pages do not count as the process's memory. Several threads may read.
    """

    def __init__(
        self, shards: Sequence[Shard], dtype: str, remedy: str = "prepare the data again",
        marks: "Tokens | None" = None,
    ) -> None:  # fmt: skip
        """Check the sizes of the files, nothing else.

        `remedy` is for errors. `marks` are the marks of conversations, one for each token (`data.conversations`); None
        for text. Raises InputError that names a file which is missing, unreadable, or has another size than its shard.
        """
        self.shards, self.dtype, self.remedy = tuple(shards), np.dtype(dtype).newbyteorder("<"), remedy
        self.marks = marks
        for shard in self.shards:
            size = file_size(shard.file, remedy)
            if size != self._size(shard):
                raise InputError(str(shard.file), f"has {size} bytes, the manifest has {self._size(shard)}", remedy)
        tokens, self._offsets = np.array([(s.tokens, s.offset) for s in self.shards], np.int64).reshape(-1, 2).T
        self._ends = np.cumsum(tokens)
        self._starts = self._ends - tokens
        self._open = lru_cache(_OPEN_FILES)(_OpenFile)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int = 0, count: int | None = None) -> Array:
        """`count` tokens from `start` (default: all that follow), shape (count,).

        Raises RunError that names the file which cannot be read.
        """
        row: Array = self.rows(np.array([start]), len(self) - start if count is None else count)[0]
        return row

    def rows(self, starts: Array, count: int) -> Array:
        """`count` tokens from each of `starts` (B,), shape (B, count). Raises RunError as `read` does."""
        if len(starts) and not 0 <= int(starts.min()) <= int(starts.max()) <= len(self) - count:
            raise IndexError(f"{count} tokens from {starts.min()} to {starts.max()}: there are {len(self)}")
        tokens = np.empty((len(starts), count), self.dtype)
        width = count * self.dtype.itemsize
        if not tokens.size:
            return tokens
        whole = tokens.data.cast("B")
        numbers = np.searchsorted(self._ends, starts, side="right")
        offsets = self._offsets[numbers] + (starts - self._starts[numbers]) * self.dtype.itemsize
        for row, (number, offset) in enumerate(zip(numbers.tolist(), offsets.tolist(), strict=True)):
            self._fill(whole[row * width : (row + 1) * width], number, offset)
        return tokens

    def _size(self, shard: Shard) -> int:
        return shard.offset + shard.tokens * self.dtype.itemsize

    def _fill(self, part: memoryview, number: int, offset: int) -> None:
        """Read bytes from `offset` of a shard, and from the beginning of the next ones."""
        while True:
            shard = self.shards[number]
            try:
                opened = self._open(shard.file)
                got = os.preadv(opened.descriptor, [part], offset)
                size = os.fstat(opened.descriptor).st_size if not got else 0
            except OSError as error:
                raise _lost(shard.file, f"cannot be read ({error.strerror})") from None
            if got == len(part):
                return
            part, offset = part[got:], offset + got
            if offset == self._size(shard):
                number += 1
                offset = self.shards[number].offset
            elif not got:
                raise _lost(shard.file, f"has {size} bytes, it had more when it was opened")

    def verify(self, known: Mapping[str, Sequence[Any]] | None = None) -> dict[str, list[Any]]:
        """Read every file once, except those whose state is in `known`; returns the states by file.

        Raises InputError that names a file which changed since it was written.
        """
        states: dict[str, list[Any]] = {} if self.marks is None else self.marks.verify(known)
        for shard in self.shards:
            try:
                status = shard.file.stat()  # before it is read, so that a later change shows next time
                state = [shard.sha256, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
                if state != (known or {}).get(str(shard.file)) and checksum(shard.file) != shard.sha256:
                    raise InputError(str(shard.file), "changed since it was written (checksum)", self.remedy)
            except OSError as error:
                raise InputError(str(shard.file), f"cannot be read ({error.strerror})", self.remedy) from None
            states[str(shard.file)] = state
        return states


class _OpenFile:
    """A file descriptor that is closed with the last reference to it."""

    def __init__(self, file: Path) -> None:
        self.descriptor = -1
        self.descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def file_size(file: Path, remedy: str) -> int:
    """Bytes of a file. Raises InputError for one that is missing, unreadable or no plain file."""
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
        try:
            facts = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise InputError(str(file), "missing", remedy) from None
    except OSError as error:
        raise InputError(str(file), f"cannot be read ({error.strerror})", "make it a readable file") from None
    if stat.S_ISDIR(facts.st_mode):
        raise InputError(str(file), "cannot be read (it is a folder)", "make it a readable file")
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(str(file), "a pipe, socket or device, not a file", "make it a readable file")
    return facts.st_size


def _lost(file: Path, what: str) -> RunError:
    return RunError(str(file), what, "bring the file back as it was; the same command then resumes")
