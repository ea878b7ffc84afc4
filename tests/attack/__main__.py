"""The standing attack: `python -m tests.attack --inputs 300 --kills 20 --seed 0`, from the root of the repository.

Bad inputs in forked workers with limits, and kills at random moments. Prints a table and every violation with the
command that repeats it alone, and ends with status 1 where there is one.
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

for name, value in {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error", "COLUMNS": "100",
}.items():  # fmt: skip
    os.environ.setdefault(name, value)  # before torch and transformers are imported
SOURCES = str(Path(__file__).parents[2] / "src")  # this checkout, whatever else is installed
sys.path.insert(0, SOURCES)
os.environ["PYTHONPATH"] = SOURCES  # for cases that are processes from nothing

from tests.attack import inputs, material, worker  # noqa: E402


def _make(folder: str) -> None:
    """The material, and the names of all modules that making it has imported."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        material.make(Path(folder))
    (Path(folder) / "modules").write_text("\n".join(sorted(sys.modules)), encoding="utf-8")


def prepare(folder: Path) -> None:
    """Make the material in a process of its own, and import here what that needed, so that forked cases need not."""
    importlib.import_module("inheritune.cli.commands")
    importlib.import_module("inheritune.arch.loading").silence_libraries()
    importlib.import_module("inheritune.experiment")
    importlib.import_module("lm_eval.tasks")
    folder.mkdir(exist_ok=True)
    maker = multiprocessing.get_context("fork").Process(target=_make, args=(str(folder),))
    maker.start()
    maker.join()
    if maker.exitcode != 0:
        raise SystemExit("the material could not be made")
    for name in (folder / "modules").read_text(encoding="utf-8").split("\n"):
        if name.split(".")[0] not in ("__mp_main__", "test_gguf", "conftest", "pytest", "_pytest"):
            with warnings.catch_warnings(), contextlib.suppress(Exception):
                warnings.simplefilter("ignore")
                importlib.import_module(name)
    (folder / "modules").unlink()


def attack_with_inputs(count: int, seed: int, folder: Path, workers: int, only: list[str] | None = None) -> list[str]:
    """Run `count` bad inputs; the violations, each with how to repeat it. `only` are parts of the names of the cases that are run."""
    began = time.monotonic()
    prepare(folder / "material")
    made = time.monotonic() - began
    untouched = worker._listing(folder / "material")
    cases = inputs.select(folder / "material", count, seed)
    if only is not None:
        cases = [case for case in cases if any(part in case.name for part in only)]
    counts: Counter[tuple[str, str]] = Counter()
    most: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    found = []
    for case, outcome in worker.run_all(cases, folder, workers):
        family = case.name.partition(":")[0]
        wrong = worker.judge(case, outcome)
        counts[family, "cases"] += 1
        counts[family, f"status {outcome.status}"] += 1
        most[family] = [max(most[family][0], outcome.seconds), max(most[family][1], outcome.memory)]
        if only is not None and len(cases) <= 20:
            print(
                f"{case.name!r}: status {outcome.status}, {outcome.seconds:.2f} s, {outcome.memory / 1e6:.0f} MB\n{worker.shown(case, outcome)}"
            )
        if wrong:
            counts[family, "violations"] += 1
            again = f"python -m tests.attack --inputs {count} --kills 0 --seed {seed} --only {case.name!r}"
            found.append(f"{case.name}: {'; '.join(wrong)}\n{worker.shown(case, outcome)}\n    {again}")
            print(f"\n{found[-1]}", flush=True)
    if worker._listing(folder / "material") != untouched:
        found.append("a case has changed the material outside its own folder")
        print(f"\n{found[-1]}")
    _table(counts, most)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{len(cases)} inputs in {time.monotonic() - began:.0f} s (material {made:.0f} s), {used.ru_utime + used.ru_stime:.0f} s of processors; {len(found)} violations"
    )
    return found


def _table(counts: Counter[tuple[str, str]], most: dict[str, list[float]]) -> None:
    print(f"{'family':<16}{'cases':>7}{'  0':>6}{'1':>6}{'2':>6}{'wrong':>7}{'slowest':>10}{'memory':>10}")
    for family, (seconds, memory) in sorted(most.items()):
        row = [counts[family, key] for key in ("cases", "status 0", "status 1", "status 2", "violations")]
        print(
            f"{family:<16}{row[0]:>7}{row[1]:>6}{row[2]:>6}{row[3]:>6}{row[4]:>7}{seconds:>8.1f} s{memory / 1e6:>7.0f} MB"
        )


def main() -> int:
    """Run the attack with the command line's numbers."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--inputs", type=int, default=300, help="bad inputs")
    parser.add_argument("--kills", type=int, default=20, help="kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append", help="run the inputs alone with this in their names; repeatable")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it has made is removed
    found = []
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        folder = Path(name)
        if given.inputs:
            found += attack_with_inputs(given.inputs, given.seed, folder, given.workers, given.only)
        if given.kills and given.only is None:
            from tests.attack.kills import attack_with_kills

            killed = attack_with_kills(given.kills, given.seed, folder, given.workers)
            print("\n".join(killed))
            found += killed
    print(f"\n{len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
