"""Commands are killed at random instants and started again, and what they make in the end is compared bit for bit.

    python -m tests.attack.kills --kills 30 --seed 3
    python -m tests.attack.kills --seed 3 --trial 17        # one trial again

A trial starts a job in an empty folder and kills it, by SIGKILL, SIGTERM or SIGINT, before the n-th change that it makes
to files or at an instant by the clock; several times; then lets it end. What it has made must be what an undisturbed
start makes, with nothing left beside it. A start after that changes nothing. In some trials several processes begin
together, and in some the real command line is killed. All instants follow from the seed and the trial's number.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.attack.attempt import Attempt, Trial, Truth
from tests.attack.jobs import Job, list_jobs, make_inputs
from tests.attack.outcome import leftovers, outcome
from tests.attack.start import Start, import_all

_ATTEMPTS = 12  # starts from nothing until all kills of a trial have hit


@dataclass
class Report:
    """All trials of an attack."""

    trials: list[Trial]
    seed: int
    seconds: float = 0.0

    @property
    def kinds(self) -> Counter[str]:
        """The kills that hit, by signal and by how their instants were chosen."""
        return sum((trial.kinds for trial in self.trials), Counter[str]())

    @property
    def violations(self) -> list[str]:
        """What went wrong, with what repeats it."""
        return [line for trial in self.trials for line in self.violations_of(trial)]

    def violations_of(self, trial: Trial) -> list[str]:
        """What went wrong in one trial."""
        again = f"python -m tests.attack.kills --seed {self.seed} --trial {trial.number}"
        return [f"{trial.job}: {what} ({again})" for what in trial.wrong]

    def lines(self) -> list[str]:
        """The figures for people."""
        jobs: Counter[str] = Counter()
        for trial in self.trials:
            jobs[trial.job] += trial.kinds.total()
        longest = max((trial.waited for trial in self.trials), default=0.0)
        return [
            f"{self.kinds.total()} kills in {len(self.trials)} trials, {self.seconds:.0f} s ({_processor():.0f} s of CPU time),"
            f" seed {self.seed}",
            "by kind: " + ", ".join(f"{kind} {count}" for kind, count in sorted(self.kinds.items())),
            "by job: " + ", ".join(f"{job} {count}" for job, count in sorted(jobs.items())),
            f"longest time from SIGTERM or SIGINT to the end: {longest:.1f} s",
        ]


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def attack_with_kills(count: int, seed: int, folder: Path, workers: int) -> list[str]:
    """Kill commands `count` times in all, and print figures; returns what went wrong.

    Call it before this process computes anything.
    """
    found = attack(count, seed, folder, workers)
    print("\n".join(found.lines()))
    return found.violations


def attack(
    count: int,
    seed: int,
    folder: Path,
    workers: int,
    trials: Sequence[int] | None = None,
    say: Callable[[str], object] = len,
) -> Report:
    """As `attack_with_kills`, with all figures; with `trials` only those are made. `say` is told of each fault at once."""
    began = time.monotonic()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2] / "src")  # for processes that are not forked
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    import_all()
    place = Path(tempfile.mkdtemp(prefix="kills-", dir=folder))
    _make_inputs(place)
    jobs = len(list_jobs(place))
    numbers = trials if trials is not None else range(_trials(count, seed))
    wanted = sorted({number % jobs for number in numbers})
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        truths = dict(zip(wanted, pool.map(partial(_learn, place), wanted), strict=True))
        given = [(number, number % jobs, truths[number % jobs]) for number in numbers]
        report = Report([], seed)
        for trial in pool.map(partial(_try, seed, place), given):
            report.trials.append(trial)
            for line in report.violations_of(trial):
                say(line)
    shutil.rmtree(place)
    report.seconds = time.monotonic() - began
    return report


def _make_inputs(place: Path) -> None:
    """In a process of its own, as nothing may be computed in the one that forks."""
    made = multiprocessing.get_context("fork").Process(target=_quietly, args=(place,))
    made.start()
    made.join()
    if made.exitcode:
        raise RuntimeError(f"the inputs of the attack could not be made: {(place / 'inputs.log').read_text()}")


def _quietly(place: Path) -> None:
    with (place / "inputs.log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        make_inputs(place)


def _draw(seed: int, number: int) -> tuple[random.Random, str, int]:
    """The random numbers of a trial, its way and its kills."""
    draw = random.Random(f"{seed} {number}")
    way = draw.choices(["alone", "together", "at_shell"], [0.85, 0.12, 0.03])[0]
    return draw, way, 1 if way == "at_shell" else draw.randint(1, 6)


def _trials(count: int, seed: int) -> int:
    """So many trials make at least `count` kills."""
    kills = itertools.accumulate(_draw(seed, number)[2] for number in itertools.count())
    return next(number for number, total in enumerate(kills, start=1) if total >= count)


def _learn(place: Path, at: int) -> Truth:
    """Run a job undisturbed. Raises RuntimeError where it does not end well."""
    job = list_jobs(place)[at]
    folder = _new_folder(job, place, "truth")
    done = Start(job.words, folder, job.first).end()
    if done.status:
        raise RuntimeError(f"{job.name}: undisturbed, it ends with {done.status}: {done.error}")
    truth = Truth(outcome(folder, job.made), done.seconds, done.changes)
    if wrong := leftovers(folder):
        raise RuntimeError(f"{job.name}: undisturbed, it leaves {wrong}")
    shutil.rmtree(folder)
    return truth


def _new_folder(job: Job, place: Path, name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=place)) / "work"
    folder.mkdir()
    job.set_up(folder)
    return folder


def _try(seed: int, place: Path, given: tuple[int, int, Truth]) -> Trial:
    number, at, truth = given
    job = list_jobs(place)[at]
    draw, way, kills = _draw(seed, number)
    trial = Trial(number, job.name)
    if way == "at_shell" and job.first is not None:
        way = "alone"
    for _ in range(_ATTEMPTS):
        folder = _new_folder(job, place, f"trial-{number}")
        attempt = Attempt(job, truth, folder, draw, trial)
        try:
            getattr(attempt, f"kill_{way}")(kills)
            attempt.finish()
        except Exception as error:  # a fault of this program must not hide what was found
            trial.wrong.append(f"{type(error).__name__}: {error}; {', '.join(attempt.story)}")
        if trial.wrong:
            break
        shutil.rmtree(folder.parent)
        if trial.kinds.total() >= kills:
            break
    return trial


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="draws the instants")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trial", type=int, action="append", help="make only this one; repeatable")
    words = parser.parse_args()
    memory = Path("/dev/shm")  # where nothing waits for a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        found = attack(
            words.kills, words.seed, Path(folder), words.workers, words.trial, partial(print, "WRONG:", flush=True)
        )
    print("\n".join(found.lines()))
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
