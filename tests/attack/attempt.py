"""One job from an empty folder to its end, with kills on the way, and what must hold after each."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.jobs import Job
from tests.attack.outcome import differences, digest, leftovers, outcome
from tests.attack.start import Ended, Kill, Start

_SOON = 15.0  # seconds from SIGTERM or SIGINT to the end
_FAULTS = ("Traceback", "a fault in inheritune", "this should not happen", "Exception ignored")
_REFUSED = ("another process is at work", "exists already")


@dataclass(frozen=True)
class Truth:
    """What an undisturbed start makes, the time that it takes and the number of changes that it makes to files."""

    made: dict[str, str]
    seconds: float
    changes: int


@dataclass
class Trial:
    """What came of one trial: the kills that hit, in words, and what went wrong."""

    number: int
    job: str
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    waited: float = 0.0
    """The longest time from SIGTERM or SIGINT to the end."""


class Attempt:
    """A job in an empty folder; what goes wrong is added to `trial`."""

    def __init__(self, job: Job, truth: Truth, folder: Path, draw: random.Random, trial: Trial) -> None:
        self.job, self.truth, self.folder, self.draw, self.trial = job, truth, folder, draw, trial
        self.story: list[str] = []
        self._changes = 0

    def kill_alone(self, kills: int) -> None:
        """Kill one process after the other until `kills` have hit, or one has ended by itself."""
        while self.trial.kinds.total() < kills and not self.trial.wrong:
            kill = self._kill()
            done = Start(self.job.words, self.folder, self.job.first, kill).end()
            self.story.append(f"{kill}{f' ({done.hit})' if done.hit else ''}: {done.status}")
            self._changes += done.changes
            if not done.killed:
                self._check_status(done, (0,) if self.job.resumes else (0, 2))
                return
            self.trial.kinds[f"{kill.number.name} {'by the clock' if kill.change is None else 'at a change'}"] += 1
            self._check_status(done, (0, -signal.SIGKILL if kill.number == signal.SIGKILL else 130))
            if done.status == 130:
                self._check_stopped(done)
            self._check_visible()
            if self.job.words[0] in ("run", "compare") and self.draw.random() < 0.2:
                report = Start(["report", "out"], self.folder, self.job.first).end()
                self._check_status(report, (0, 2))

    def kill_together(self, kills: int) -> None:
        """Let three begin at once and kill one of them: at most one works in the folder."""
        kill = Kill(signal.SIGKILL, seconds=self.draw.uniform(0, self.truth.seconds))
        starts = [Start(self.job.words, self.folder, self.job.first, each) for each in (kill, None, None)]
        ended = [start.end() for start in starts]
        self.story.append(f"three at once, one of them {kill}: {[done.status for done in ended]}")
        self.trial.kinds["SIGKILL of one of three"] += ended[0].killed
        for done in ended:
            if done.status == 2 and any(what in done.error for what in _REFUSED):
                continue
            self._check_status(done, (0, -signal.SIGKILL) if done.killed else (0,))

    def kill_at_shell(self, kills: int) -> None:
        """Kill what a user starts, at any time from its first import on."""
        log = self.folder.with_name("shell.log")
        number = self.draw.choice([signal.SIGKILL, signal.SIGTERM])
        with log.open("w") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "inheritune", *self.job.words], cwd=self.folder,
                stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
        try:
            process.wait(self.draw.uniform(1, 4 + self.truth.seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
            self.trial.kinds[f"{number.name} at the shell"] += 1
        sent = time.monotonic()
        done = Ended(process.wait(), "", log.read_text(encoding="utf-8"), 0, 0, "", True, time.monotonic() - sent)
        log.unlink()
        self.story.append(f"{number.name} at the shell: {done.status}")
        self._check_status(done, (0, -signal.SIGKILL) if number == signal.SIGKILL else (0, 130, -signal.SIGTERM))

    def finish(self) -> None:
        """Start it undisturbed until it is done, and once more."""
        if self.trial.wrong:
            return
        for start in ("the last start", "another one"):
            done = Start(self.job.words, self.folder, self.job.first).end()
            there = bool(outcome(self.folder, self.job.made))
            refused = not self.job.resumes and there and "exists already" in done.error
            self._check_status(done, (2,) if refused else (0,))
            self._wrong(
                f"{start}: {what}" for what in differences(outcome(self.folder, self.job.made), self.truth.made)
            )
            self._wrong(f"{start}: left behind: {what}" for what in leftovers(self.folder))

    def _kill(self) -> Kill:
        number = self.draw.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], [0.7, 0.2, 0.1])[0]
        if self.draw.random() < 0.6:
            return Kill(number, change=self.draw.randint(1, max(20, self.truth.changes - self._changes)))
        return Kill(number, seconds=self.draw.uniform(0, self.truth.seconds), group=self.draw.random() < 0.7)

    def _check_status(self, done: Ended, legal: tuple[int, ...]) -> None:
        if done.status not in legal or any(what in done.error for what in _FAULTS):
            self._wrong([f"ended with {done.status}, not {' or '.join(map(str, legal))}: {done.error[-1500:]!r}"])

    def _check_stopped(self, done: Ended) -> None:
        """After SIGTERM or SIGINT."""
        self.trial.waited = max(self.trial.waited, done.waited)
        if done.waited > _SOON:
            self._wrong([f"ended {done.waited:.1f} s after the signal"])
        last = (done.error.splitlines() or [""])[-1]
        if "run the same command again" not in last:
            self._wrong([f"does not say how to resume: {done.error[-1500:]!r}"])

    def _check_visible(self) -> None:
        """What stands there under its own name is whole: JSON can be read, and models are those of the end."""
        for name in self.job.made:
            for path in sorted((self.folder / name).rglob("*")):
                place = str(path.relative_to(self.folder))
                if not path.is_file() or any(part.startswith(".") for part in Path(place).parts):
                    continue
                is_result = not self.job.resumes or (path.parent.name == "model" and path.name != "README.md")
                if is_result and digest(path) != self.truth.made.get(place):
                    self._wrong([f"{place} is not what it is in the end"])
                elif path.suffix == ".json":
                    json.loads(path.read_text(encoding="utf-8"))

    def _wrong(self, lines: Iterable[str]) -> None:
        self.trial.wrong += [f"{line}; {', '.join(self.story)}" for line in lines]
