"""What settings of the C library and the interpreter gain: each on and off in turn, in one process.

    OMP_NUM_THREADS=1 python benchmarks/interpreter.py [memory] [switch] [gc] [--rounds 7]

- memory: `runtime.freed_memory_kept` (mallopt). Seconds of the process's own time a step, and page faults a step, of a
  training of the standard shape. Own time, since other programs do not change it.
- switch: a switch interval of 1 ms instead of 5 while batches are read ahead (not used, as it gained nothing). Seconds
  that a step waits for its batch, and seconds a step, where the main thread runs Python all the time (the worst case)
  and where it multiplies matrices.
- gc: `inheritune plan` without cyclic garbage collection. Seconds of a command's own time, each a process of its own.
"""

import argparse
import contextlib
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from inheritune import runtime
from inheritune.arch import block_modules, build_random, new_config, split_head
from inheritune.bench import SHAPES
from inheritune.data import Batches, Packing, Sequences
from inheritune.recipe import Training, check
from inheritune.runlog import read_metrics
from inheritune.training import Job, train_steps

STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", default=["memory", "switch", "gc"])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    for which in given.which:
        {"memory": memory, "switch": switch, "gc": collection}[which](given.rounds)


def memory(rounds: int) -> None:
    shape = SHAPES["standard"]
    config = new_config(dict(shape["model"]), shape["vocabulary"], {}, 256)
    model, kept = build_random(config, 1), runtime.freed_memory_kept
    row = np.random.default_rng(1).integers(0, shape["vocabulary"], 256 * 600 + 1).astype(np.uint16)
    tree = shape["train"] | {
        "length": f"{STEPS} steps",
        "compile": False,
        "checkpoint": {"every": "99 steps", "best": False},
    }

    def train(on: bool) -> tuple[float, float]:
        runtime.freed_memory_kept = kept if on else contextlib.nullcontext  # type: ignore[assignment]
        marks: list[tuple[float, int]] = []

        def validate(score: Any) -> float:
            marks.append((time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt))
            return 1.0

        with tempfile.TemporaryDirectory() as folder:
            train_steps(Job(
                label="x", model=model, sequences=Sequences(row, 256, "x"), settings=check(Training, tree, "x"), seed=1,
                folder=Path(folder), runtime=runtime.start("cpu"), validate=validate,
                validate_every=1, blocks=block_modules(model), head=split_head(model),
            ))  # fmt: skip
            assert len(read_metrics(Path(folder) / "metrics.jsonl")) > STEPS
        (began, faults), (ended, later) = marks[2], marks[-1]
        return (ended - began) / (STEPS - 2), (later - faults) / (STEPS - 2)

    in_turn("memory: own seconds and page faults a step", train, rounds)


def switch(rounds: int) -> None:
    row = np.random.default_rng(1).integers(0, 8192, 256 * 60_000 + 1).astype(np.uint16)

    def busy() -> None:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass

    def products() -> None:
        for _ in range(4):
            square @ square

    import torch

    square = torch.randn(500, 500)
    before = sys.getswitchinterval()
    packings = {"plain sequences": Packing(), "a prefix before each document": Packing((1, 2), 0, True)}
    row[::100] = 0
    for (name, work), (kind, packing) in itertools.product(
        {"Python": busy, "products": products}.items(), packings.items()
    ):

        def wait(on: bool, work: Callable[[], None] = work, packing: Packing = packing) -> tuple[float, float]:
            sys.setswitchinterval(0.001 if on else before)
            batches, waited, number = Batches(Sequences(row, 256, "x", packing=packing), 64, 1), 0.0, 25
            began = time.perf_counter()
            with batches.reading_ahead():
                for step in range(number):
                    mark = time.perf_counter()
                    batches.micro_batches(step, 8)
                    waited += time.perf_counter() - mark
                    work()
            return waited / number, (time.perf_counter() - began) / number

        in_turn(f"switch, {kind}, main thread: {name}: seconds waited and seconds a step", wait, rounds)


def collection(rounds: int) -> None:
    code = """
import gc, sys
if sys.argv[1] == "off": gc.disable = lambda: None
from inheritune.cli import main
main(["plan", sys.argv[2]])
"""

    def plan(on: bool) -> tuple[float, float]:
        recipe = Path(__file__).parents[1] / "recipes" / "demo.yaml"
        began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", code, "on" if on else "off", str(recipe)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=dict(os.environ))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return own, time.perf_counter() - began

    in_turn("gc, `inheritune plan recipes/demo.yaml`: own seconds and seconds", plan, rounds)


def in_turn(title: str, measure: Callable[[bool], tuple[float, float]], rounds: int) -> None:
    measure(True)  # warms up
    rows: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for number in range(rounds):
        for on in (True, False) if number % 2 else (False, True):
            rows[on].append(measure(on))
    print(title)
    for on, found in rows.items():
        shown = [f"{statistics.median(one):.4g} ({min(one):.4g} to {max(one):.4g})" for one in zip(*found, strict=True)]
        print(f"  {'with' if on else 'without'}: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
