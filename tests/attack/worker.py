"""Cases of the attack in processes of their own: forked from one that has done the imports, with limits, and judged.

A case is a folder with files, the words of a command line, an environment, and what must come of it. `judge` says
what is wrong with an outcome; it is a function of the case and the outcome alone.
"""

import contextlib
import gc
import io
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

SECONDS = 20  # of a processor
WALL = 180  # seconds after which a case hangs: other work on the machine may take most of them
MEMORY = 1 << 30  # more than the imports take
WORDS = 4000  # characters of all that is said
_LINE = re.compile(r"(process \d+: )?(error|warning): [^\n]*\S")
_NOISE = re.compile(r"internal fault|a fault in inheritune|Traceback \(most recent|object at 0x[0-9a-f]+|\x1b|\x00")


@dataclass(frozen=True)
class Case:
    """One call of the program; `change` makes its files in its folder, which is empty and the current one."""

    name: str
    words: tuple[str, ...]
    change: Callable[[Path], object] = lambda folder: None
    status: tuple[int, ...] = (2,)
    says: tuple[str, ...] = ()  # of each text, whose alternatives `|` parts, one must be said
    makes: tuple[str, ...] = ()  # what is there after success, below the case's folder
    keeps: tuple[str, ...] = ()  # what may be there after a failure: finished stages, by pattern
    variables: dict[str, str | None] = field(default_factory=dict)
    file_bytes: int | None = None  # no file may become larger: a disk that is full
    closed: tuple[int, ...] = ()  # descriptors that are closed before it begins
    real: bool = False  # a process of its own from nothing, in place of a forked one

    @property
    def seconds(self) -> float:
        """Seconds of a processor that it may take: the imports of a process from nothing, and the harness's list of its
        thousands of tasks, take some more.
        """
        return SECONDS + 4 * self.real + 7 * ("tasks" in self.name)

    @property
    def allowed(self) -> tuple[int, ...]:
        """The statuses that it may end with: a file whose reading fails is the machine's fault."""
        return (*self.status, 1) if "/proc/self/mem" in self.name else self.status


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    status: int  # negative: the signal that ended it
    out: str
    error: str
    seconds: float  # of a processor
    wall: float
    memory: int  # bytes more than before
    late: bool  # killed after `WALL` seconds
    left: tuple[str, ...]  # files and folders that are new, gone or changed


def judge(case: Case, outcome: Outcome) -> list[str]:
    """What is wrong with how a case ended; nothing where all is as it should be."""
    said = outcome.error.strip()
    lines = said.splitlines()
    wrong = []
    # weights that are numbers and make none are seen when the model is used, and a failed reading may name no file
    useless = outcome.status == 1 and ("check the model's weights" in said or "/proc/self/mem" in case.name)
    if outcome.late:
        wrong.append(f"not at its end after {WALL} s")
    elif outcome.status < 0:
        wrong.append(f"ended by {signal.Signals(-outcome.status).name}")
    elif outcome.status not in case.allowed and not useless:
        wrong.append(f"status {outcome.status}, expected {' or '.join(map(str, case.allowed))}")
    if outcome.seconds > case.seconds:
        wrong.append(f"{outcome.seconds:.1f} s of a processor, at most {case.seconds}")
    if outcome.memory > MEMORY:
        wrong.append(f"{outcome.memory / 1e6:,.0f} MB more than the imports, at most {MEMORY / 1e6:,.0f}")
    if noise := _NOISE.search(outcome.error + outcome.out):
        wrong.append(f"it says {noise[0]!r}")
    if len(said) > WORDS:
        wrong.append(f"{len(said):,} characters are said, at most {WORDS:,}")
    if outcome.status in (1, 2):
        errors = [line for line in lines if _LINE.fullmatch(line) and "warning: " not in line[:20]]
        wrong += [f"a line that is no error or warning: {line[:200]!r}" for line in lines if not _LINE.fullmatch(line)]
        wrong += [f"no place or no remedy: {line[:200]!r}" for line in errors if not re.search(r": .*; \S", line)]
        if not errors and 2 not in case.closed:
            wrong.append("no error is said")
        if errors and not useless:
            missing = [text for text in case.says if not any(part in said for part in text.split("|"))]
            wrong += [f"it does not say {text!r}" for text in missing]
        if outcome.out and outcome.status == 2:
            wrong.append("standard output of what failed is not empty")
        kept = [name for name in outcome.left if not any(fnmatchcase(name, pattern) for pattern in case.keeps)]
        wrong += [f"left behind or changed: {name}" for name in kept[:3]]
    elif outcome.status == 0:
        wrong += [f"did not write {name}" for name in case.makes if name not in outcome.left]
        wrong += [f"left half-made: {name}" for name in outcome.left if name.endswith(".partial")]
        if "error: " in outcome.error:
            wrong.append("says an error and ends with 0")
    return wrong


def shown(case: Case, outcome: Outcome) -> str:
    """What was said, for a report."""
    return f"    inheritune {' '.join(case.words)[:300]}\n    {outcome.error.strip()[:600] or '(nothing said)'}"


def run_all(
    cases: Sequence[Case], folder: Path, workers: int, call: Callable[[list[str]], int] | None = None
) -> Iterator[tuple[Case, Outcome]]:
    """Each case with its outcome, as they end; `call` is what runs the words, the program's `main` by default.

    Cases run in folders of their own below `folder`, which are removed behind them.
    """
    if call is None:
        from inheritune.cli import main as call
    gc.collect()
    gc.freeze()  # no collection touches, and so copies, what the processes share
    waiting, running = list(enumerate(cases))[::-1], {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, case = waiting.pop()
                started = _Running(case, folder / f"case-{number}", call)
                running[started.descriptor] = started
            ended, _, _ = select.select(list(running), [], [], 0.2)
            for descriptor, started in list(running.items()):
                outcome = started.outcome(descriptor in ended)
                if outcome is not None:
                    del running[descriptor]
                    yield started.case, outcome
    finally:
        gc.unfreeze()
        for started in running.values():  # where the attack is stopped
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.process, signal.SIGKILL)


class _Running:
    """A case that runs. Its process leads a group of its own, so that its children can be ended with it."""

    def __init__(self, case: Case, folder: Path, call: Callable[[list[str]], int]) -> None:
        self.case, self.folder = case, folder / "work"
        self.folder.mkdir(parents=True)
        (folder / "home").mkdir()
        case.change(self.folder)
        self.before = _listing(self.folder)
        self.began, self.late = time.monotonic(), False
        if case.real:
            self.process = self._spawn()
        else:
            sys.stdout.flush(), sys.stderr.flush()
            self.process = os.fork()
            if self.process == 0:
                self._be(call)
        self.descriptor = os.pidfd_open(self.process)

    def _spawn(self) -> int:
        def first() -> None:
            _limit(self.case)
            for descriptor in self.case.closed:
                os.close(descriptor)

        with (self.folder.parent / "out").open("wb") as out, (self.folder.parent / "error").open("wb") as error:
            command = [sys.executable, "-m", "inheritune", *self.case.words]
            self.begun = subprocess.Popen(  # kept: an object that goes takes the process's end with it
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=error, cwd=self.folder, start_new_session=True,
                env=self._environment(), preexec_fn=first,
            )  # fmt: skip
        return self.begun.pid

    def _environment(self) -> dict[str, str]:
        home = self.folder.parent / "home"
        variables = os.environ | {"HOME": str(home), "HF_HOME": str(home / "hf"), "TMPDIR": str(home)}
        variables |= self.case.variables
        return {name: value for name, value in variables.items() if value is not None}

    def _be(self, call: Callable[[list[str]], int]) -> None:
        """The forked process: the program with these words, as it would be from the shell; never returns."""
        status = 99
        try:
            os.setsid()
            os.chdir(self.folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for descriptor, name in ((1, "out"), (2, "error")):
                os.dup2(os.open(self.folder.parent / name, flags), descriptor)
            os.environ.clear(), os.environ.update(self._environment())
            sys.argv = ["inheritune", *self.case.words]
            for number, name in ((1, "stdout"), (2, "stderr")):
                setattr(sys, name, io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", write_through=True))
                if number in self.case.closed:
                    os.close(number)
                    setattr(sys, name, None)  # as Python itself has it where a descriptor is closed
            (self.folder.parent / "resident").write_text(str(_resident()), encoding="ascii")
            _limit(self.case)
            status = call(list(self.case.words))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            import traceback

            with contextlib.suppress(Exception):
                traceback.print_exc()
            status = 98
        finally:
            os._exit(status)

    def outcome(self, ended: bool) -> Outcome | None:
        """What came of it, once it has ended."""
        wall = time.monotonic() - self.began
        if not ended and wall < WALL:
            return None
        if not ended:
            self.late = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL) if self.late else None
        _, raw, used = os.wait4(self.process, 0)
        if self.case.real:
            self.begun.returncode = os.waitstatus_to_exitcode(raw)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process, signal.SIGKILL)  # children that it has left behind
        os.close(self.descriptor)
        texts = [self._said(name) for name in ("out", "error")]
        before = int(self._said("resident") or "0")  # none for a process from nothing: its imports are among it
        after = _listing(self.folder)
        left = sorted(n for n in self.before.keys() | after.keys() if self.before.get(n) != after.get(n))
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        memory = max(0, used.ru_maxrss * 1024 - before)
        status = os.waitstatus_to_exitcode(raw)
        return Outcome(status, *texts, used.ru_utime + used.ru_stime, wall, memory, self.late, tuple(left))

    def _said(self, name: str) -> str:
        path = self.folder.parent / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _limit(case: Case) -> None:
    """Memory twice what is allowed, so that what takes too much is seen and not only refused; time; file sizes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    used = int(status.partition("VmData:")[2].split()[0]) << 10
    most = used + 2 * MEMORY + (2 << 30 if case.real else 0)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (4 * SECONDS, 4 * SECONDS + 1))
    if case.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python itself does: the write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.file_bytes, case.file_bytes))


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of change of all that is in a folder; folders by their kind alone."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(root) / name
            with contextlib.suppress(OSError):
                status = path.lstat()
                is_folder = path.is_dir() and not path.is_symlink()
                facts = (0, 0) if is_folder else (status.st_size, status.st_mtime_ns)
                found[str(path.relative_to(folder))] = (status.st_mode, *facts)
    return found
