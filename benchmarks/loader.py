"""The loader: its rate beside a plain memory-mapped one, opening a trillion tokens, memory, and whether a step waits.

    python benchmarks/loader.py

Files are written to --folder and deleted; those of the trillion tokens are sparse and take no room on a disk that has
sparse files. Alternatives run alternately, medians are printed with the lowest and highest.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inheritune.data import Batches, Sequences, Shard, Tokens

BATCH = 64  # sequences
TRILLION, PER_SHARD = 10**12, 10**9


def rate(batch: Callable[[int], Any], first: int, batches: int, length: int) -> float:
    """Tokens per second."""
    began = time.perf_counter()
    for number in range(first, first + batches):
        batch(number)
    return batches * BATCH * length / (time.perf_counter() - began)


def plain_batch(file: Path, length: int) -> Callable[[int], Any]:
    """Random windows of a memory-mapped file, one by one, as small training scripts read them."""

    def batch(_: int) -> Any:
        data = np.memmap(file, dtype=np.uint16, mode="r")
        places = torch.randint(len(data) - length, (BATCH,))
        inputs = torch.stack([torch.from_numpy(data[i : i + length].astype(np.int64)) for i in places])
        targets = torch.stack([torch.from_numpy(data[i + 1 : i + 1 + length].astype(np.int64)) for i in places])
        return inputs, targets

    return batch


def shown(rates: list[float]) -> str:
    millions = [value / 1e6 for value in rates]
    return f"{statistics.median(millions):.1f} ({min(millions):.1f} to {max(millions):.1f})"


def rates(folder: Path, rounds: int) -> None:
    file, count = folder / "warm.bin", 100_000_000
    np.random.default_rng(0).integers(0, 50_000, count, dtype=np.uint16).tofile(file)
    tokens = Tokens([Shard(file, count, "")], "uint16")
    tokens.read()  # so that every page is in the memory
    print(
        f"\nMillion tokens per second, {BATCH} sequences a batch, one process, warm pages; medians of {rounds} rounds"
    )
    print("\n| T | shuffled | with replacement | plain memmap | shuffled / plain |")
    print("| --- | --- | --- | --- | --- |")
    for length in (256, 1024, 2048):
        ways: dict[str, Callable[[int], Any]] = {"plain": plain_batch(file, length)}
        for sampling in ("shuffled", "with replacement"):
            batches = Batches(Sequences(tokens, length, "benchmark", sampling), BATCH, 1)
            ways[sampling] = lambda number, batches=batches: batches.micro_batches(number, BATCH)  # type: ignore[misc]
        found: dict[str, list[float]] = {name: [] for name in ways}
        each = max(8, 4_000_000 // (BATCH * length))
        for number in range(rounds + 1):
            for name, batch in ways.items():
                value = rate(batch, number * each, each, length)
                if number:  # the first round warms up
                    found[name].append(value)
        ratio = statistics.median(a / b for a, b in zip(found["shuffled"], found["plain"], strict=True))
        cells = [shown(found[name]) for name in ("shuffled", "with replacement", "plain")]
        print(f"| {length} | {' | '.join(cells)} | {ratio:.2f} |")


def trillion(folder: Path, rounds: int) -> None:
    """Opening 10^12 tokens in shards of 10^9 and reading the batch at the end of the third epoch."""
    shards = []
    for number in range(TRILLION // PER_SHARD):
        file = folder / f"train-{number:05d}.bin"
        with file.open("wb") as opened:
            opened.truncate(PER_SHARD * 2)
        shards.append(Shard(file, PER_SHARD, ""))
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        sequences = Sequences(Tokens(shards, "uint16"), 2048, "benchmark")
        last = 3 * sequences.count // BATCH - 1
        Batches(sequences, BATCH, 1).micro_batches(last, BATCH)
        seconds.append(time.perf_counter() - began)
    print(f"\nOpening 10^12 tokens in {len(shards):,} shards and reading batch {last:,}, the end of the third epoch:")
    print(f"{statistics.median(seconds) * 1e3:.1f} ms ({min(seconds) * 1e3:.1f} to {max(seconds) * 1e3:.1f})")


def resident() -> int:
    """Resident memory of this process in bytes (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def memory(folder: Path, sequences_read: int) -> None:
    file, length = folder / "warm.bin", 256
    row = Sequences(Tokens([Shard(file, file.stat().st_size // 2, "")], "uint16"), length, "benchmark")
    batches = Batches(row, 500, 1)
    total = sequences_read // 500
    noted = []
    for number in range(total):
        batches.micro_batches(number, 500)
        if (number + 1) % (total // 10) == 0:
            noted.append(resident())
    print(f"\nResident memory after each tenth of {total * 500:,} sequences of {length} tokens, in MB, and its growth")
    print(f"from the first tenth to the last: {[round(value / 1e6, 1) for value in noted]},")
    print(f"{(noted[-1] - noted[0]) / 1e6:.2f} MB")


def sleeping(seconds: float) -> None:
    time.sleep(seconds)


def computing(seconds: float) -> None:
    end, matrix = time.perf_counter() + seconds, torch.ones(256, 256)
    while time.perf_counter() < end:
        matrix @ matrix


def interpreting(seconds: float) -> None:
    end, number = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        number += 1


def waits(folder: Path, steps: int) -> Iterator[tuple[str, int, float, float]]:
    file = folder / "warm.bin"
    tokens = Tokens([Shard(file, file.stat().st_size // 2, "")], "uint16")
    for step in (sleeping, computing, interpreting):
        for length, batch in ((2048, 64), (256, 512)):
            batches = Batches(Sequences(tokens, length, "benchmark"), batch, 1)
            waited, longest = 0.0, 0.0
            with batches.reading_ahead():
                for number in range(steps + 3):
                    began = time.perf_counter()
                    batches.micro_batches(number, 8)
                    took = time.perf_counter() - began
                    if number >= 3:
                        waited, longest = waited + took, max(longest, took)
                    step(0.1)
            yield f"{step.__name__}, {batch} sequences of {length}", steps, waited / (waited + steps * 0.1), longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sequences", type=int, default=10_000_000, help="read for the growth of memory")
    parser.add_argument("--steps", type=int, default=100, help="of 100 ms, for the share of waiting")
    parser.add_argument("--folder", type=Path, default=None, help="default: the system's folder for temporary files")
    words = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=words.folder) as name:
        folder = Path(name)
        rates(folder, words.rounds)
        trillion(folder, words.rounds)
        memory(folder, words.sequences)
        print("\nShare of the time spent waiting for data, steps of 100 ms\n\n| the step is | waiting | longest wait |")
        print("| --- | --- | --- |")
        for label, _, share, longest in waits(folder, words.steps):
            print(f"| {label} | {share:.2%} | {longest * 1e3:.1f} ms |")


if __name__ == "__main__":
    main()
