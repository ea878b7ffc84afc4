"""A command in a process that begins warm and can be ended at the n-th change that it makes to files.

The process is forked from one that has done the imports, and has a process group of its own. An audit hook counts what
Python does to files: it sees neither what libraries write in C++ or Rust, nor what other processes write. Kills at
instants by the clock hit that.
"""

import contextlib
import importlib
import mmap
import multiprocessing
import os
import signal
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import PRELOADED

_FORKS = multiprocessing.get_context("fork")
_CHANGES = {
    "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
    "fsync",
}  # fmt: skip
_MORE = ("inheritune.experiment", "spacy")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_LIMIT = 600.0  # seconds that a start may take, which is a few on a free machine


def import_all() -> None:
    """Import what the commands need, so that processes that are forked begin warm. Nothing is computed before."""
    for name in (*PRELOADED, *_MORE):
        importlib.import_module(name)


@dataclass(frozen=True)
class Kill:
    """A signal, sent before the change number `change`, or `seconds` after the process began."""

    number: signal.Signals
    change: int | None = None
    seconds: float = 0.0
    group: bool = True

    def __str__(self) -> str:
        when = f"after {self.seconds:.3f} s" if self.change is None else f"at change {self.change}"
        return f"{self.number.name} {when}"


@dataclass(frozen=True)
class Ended:
    """How a process ended. `changes` it made; `hit` is where a kill at a change came."""

    status: int
    out: str
    error: str
    seconds: float
    changes: int
    hit: str
    killed: bool
    waited: float
    """Seconds from the kill to the end."""


class _Note:
    """A few bytes that a process and its parent share: changes so far, whether the command runs, where and when a kill came."""

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, 4096)

    @property
    def changes(self) -> int:
        return int(struct.unpack_from("q", self._bytes)[0])

    @changes.setter
    def changes(self, value: int) -> None:
        struct.pack_into("q", self._bytes, 0, value)

    @property
    def begun(self) -> bool:
        """Whether the command runs."""
        return self._bytes[8] == 1

    @begun.setter
    def begun(self, value: bool) -> None:
        self._bytes[8] = value

    @property
    def sent(self) -> float:
        """When the signal was sent."""
        return float(struct.unpack_from("d", self._bytes, 16)[0])

    @sent.setter
    def sent(self, value: float) -> None:
        struct.pack_into("d", self._bytes, 16, value)

    @property
    def hit(self) -> str:
        return self._bytes[24:].rstrip(b"\0").decode(errors="replace")

    @hit.setter
    def hit(self, value: str) -> None:
        content = os.fsencode(value)[:4000]
        self._bytes[24 : 24 + len(content)] = content


class Start:
    """`inheritune` with `words` in `folder`, from its begin to its end."""

    def __init__(
        self, words: Sequence[str], folder: Path, first: Callable[[], object] | None, kill: Kill | None = None
    ):
        self.kill, self._note = kill, _Note()
        self._said = [folder.with_name(f"{folder.name}.{name}.{time.monotonic_ns()}") for name in ("out", "error")]
        given = (list(words), folder, self._said, first, kill, self._note)
        self._process = _FORKS.Process(target=_be_program, args=given, daemon=True)
        self._began = time.monotonic()
        self._process.start()

    def end(self) -> Ended:
        """Kill it where that is due by the clock, and wait for its end."""
        killed, kill = False, self.kill
        if kill is not None and kill.change is None:
            self._process.join(kill.seconds)
            while not self._note.begun and self._process.exitcode is None and kill.number != signal.SIGKILL:
                time.sleep(0.001)  # its own handler of signals is not there yet
            killed = self._process.exitcode is None
            if killed:
                self._note.sent = time.monotonic()
                self._send(kill)
        self._process.join(_LIMIT)
        if self._process.exitcode is None:
            self._send(Kill(signal.SIGKILL))
            self._process.join()
            return self._ended(-999, killed)
        return self._ended(self._process.exitcode, killed)

    def _ended(self, status: int, killed: bool) -> Ended:
        out, error = (file.read_text(encoding="utf-8") if file.exists() else "" for file in self._said)
        for file in self._said:
            file.unlink(missing_ok=True)
        now, hit = time.monotonic(), self._note.hit
        self._process.close()
        killed = killed or bool(hit)
        return Ended(status, out, error, now - self._began, self._note.changes, hit, killed, now - self._note.sent)

    def _send(self, kill: Kill) -> None:
        number = self._process.pid
        assert number is not None
        with contextlib.suppress(ProcessLookupError):
            try:
                os.killpg(number, kill.number) if kill.group else os.kill(number, kill.number)
            except ProcessLookupError:  # it has no group yet
                os.kill(number, kill.number)


def _be_program(
    words: list[str], folder: Path, said: list[Path], first: Callable[[], object] | None, kill: Kill | None, note: _Note
) -> None:
    from inheritune.cli import main

    os.setpgid(0, 0)
    for descriptor, path in zip((1, 2), said, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(folder)
    sys.argv = ["inheritune", *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if first is not None:
        first()
    _watch(folder, kill, note)
    note.begun = True
    sys.exit(main())


def _watch(folder: Path, kill: Kill | None, note: _Note) -> None:
    """Count each change to a file in `folder`, and send this process the signal before the one that is asked for."""
    inside, process = str(folder.resolve()) + os.sep, os.getpid()

    def see(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(given[2], int) or not given[2] & _WRITES:
                return
        elif event not in _CHANGES:
            return
        if event != "fsync":
            path = given[0]
            if not isinstance(path, str | bytes | os.PathLike):
                return
            if not os.path.abspath(os.fsdecode(path)).startswith(inside):  # noqa: PTH100 (links stay)
                return
        note.changes += 1
        if kill is not None and note.changes == kill.change:
            note.hit, note.sent = f"{event} {' '.join(str(part) for part in given[:2])}", time.monotonic()
            os.kill(process, kill.number)

    synced = os.fsync

    def fsync(file: Any) -> None:
        see("fsync", (file,))
        synced(file)

    os.fsync = fsync
    sys.addaudithook(see)
