"""Batches over processes and micro-batches: every sequence once, the rest counts nothing, one shape everywhere."""

import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.data import Array, Batches, Sequences, Shard, Tokens, batch_numbers
from inheritune.data.loader import IGNORED
from inheritune.errors import RunError

ROW = Sequences(np.arange(1, 38 * 3 + 2, dtype=np.uint16), 3, "test")


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 9), st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_every_sequence_exactly_once(batch: int, size: int, processes: int, step: int) -> None:
    expected = batch_numbers(step, batch, ROW.count, 7)
    ranks = [
        Batches(ROW, batch, 7, dp_rank=rank, dp_size=processes).micro_batches(step, size) for rank in range(processes)
    ]
    assert len({len(parts) for parts in ranks}) == 1
    parts = [part for found in ranks for part in found]
    assert (
        {tuple(part.examples.inputs.shape) for part in parts}
        == {tuple(part.examples.targets.shape) for part in parts}
        == {(size, 3)}
    )
    assert [number for part in parts for number in part.numbers] == expected
    for part in parts:
        real = len(part.numbers)
        assert (part.examples.targets[real:] == IGNORED).all()
        if real:
            rows = torch.from_numpy(ROW.rows(part.numbers).windows)
            assert torch.equal(part.examples.inputs[:real], rows[:, :-1])
            assert torch.equal(part.examples.targets[:real], rows[:, 1:])
        assert part.examples.inputs.min() >= 1  # filler is text too, as a model may look at its ids


def test_ignored_is_what_torch_ignores() -> None:
    logits = torch.randn(2, 5)
    found = torch.nn.functional.cross_entropy(logits, torch.tensor([3, IGNORED]), reduction="sum")
    assert found == torch.nn.functional.cross_entropy(logits[:1], torch.tensor([3]), reduction="sum")


def same(one: Batches, other: Batches, step: int, size: int) -> bool:
    pairs = zip(one.micro_batches(step, size), other.micro_batches(step, size), strict=True)
    return all(
        a.numbers == b.numbers
        and torch.equal(a.examples.inputs, b.examples.inputs)
        and torch.equal(a.examples.targets, b.examples.targets)
        for a, b in pairs
    )


def test_reading_ahead_gives_the_same_whatever_is_asked_for_next() -> None:
    plain, ahead = Batches(ROW, 5, 1), Batches(ROW, 5, 1)
    with ahead.reading_ahead():
        # in turn, a jump ahead, back, and another size in the middle, as after a spike or too little memory
        for step, size in [(0, 4), (1, 4), (2, 4), (7, 4), (8, 2), (8, 1), (9, 1), (3, 1)]:
            assert same(plain, ahead, step, size)
    assert same(plain, ahead, 4, 1)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("reader")]


def test_the_next_batch_is_read_in_the_background() -> None:
    read: list[tuple[tuple[int, ...], str]] = []

    def note(starts: Array) -> tuple[torch.Tensor, ...]:
        read.append((tuple(starts.tolist()), threading.current_thread().name.split("_")[0]))
        return ()

    batches = Batches(ROW, 4, 1, stored=note)
    with batches.reading_ahead():
        for step in range(3):
            batches.micro_batches(step, 2)
    expected = [tuple(ROW.batch_starts(step, 4, 1).tolist()) for step in range(7)]
    assert [starts for starts, _ in read] == expected[: len(read)]  # each once, and some of those behind
    assert 3 <= len(read) <= 3 + 4
    assert {name for _, name in read} == {"reader"}


@pytest.mark.long
def test_reading_keeps_ahead_of_a_step() -> None:
    """Reads that take as long as four steps, now and then, are not waited for."""
    reads = iter(range(99))

    def slow(starts: Array) -> tuple[torch.Tensor, ...]:
        time.sleep(0.2 if next(reads) % 5 == 4 else 0.0)
        return ()

    batches = Batches(ROW, 4, 1, stored=slow)
    before, waited = sys.getswitchinterval(), 0.0
    with batches.reading_ahead():
        for step in range(16):
            began = time.perf_counter()
            batches.micro_batches(step, 2)
            waited += time.perf_counter() - began
            time.sleep(0.07)
    assert waited < 0.3  # 0.6 without reading ahead, 0.4 with a batch ahead
    assert sys.getswitchinterval() == before


def test_what_vanishes_in_a_training_is_named(tmp_path: Path) -> None:
    files = [tmp_path / f"train-{number}.bin" for number in range(2)]
    for file in files:
        np.arange(60, dtype=np.uint16).tofile(file)
    row = Sequences(Tokens([Shard(file, 60, "") for file in files], "uint16"), 3, "test")
    batches = Batches(row, 13, 1)  # three batches an epoch
    files[1].unlink()
    with (
        batches.reading_ahead(),
        pytest.raises(RunError, match=r"train-1\.bin: cannot be read .* the same command then resumes"),
    ):
        for step in range(3):
            batches.micro_batches(step, 2)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 5), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_windows_do_not_depend_on_processes_and_micro_batches(batch: int, size: int, processes: int, step: int) -> None:
    row = Sequences(ROW.tokens, 3, "test", "with replacement")
    expected = row.windows(row.batch_starts(step, batch, 7)).windows
    ranks = [Batches(row, batch, 7, dp_rank=rank, dp_size=processes) for rank in range(processes)]
    parts = [part for held in ranks for part in held.micro_batches(step, size)]
    found = np.concatenate([part.examples.inputs[: len(part.numbers)].numpy() for part in parts])
    assert found.tolist() == expected[:, :-1].tolist()
    assert [number for part in parts for number in part.numbers] == [
        (start - 1) // 3 for start in expected[:, 0].tolist()
    ]


def test_an_error_of_the_reader_comes_through() -> None:
    reads = iter(range(99))

    def fail(starts: Array) -> tuple[torch.Tensor, ...]:
        if next(reads) == 2:
            raise OSError(5, "Input/output error", "train.bin")
        return ()

    batches = Batches(ROW, 4, 1, stored=fail)
    with batches.reading_ahead():
        batches.micro_batches(0, 2)
        batches.micro_batches(1, 2)
        with pytest.raises(OSError, match=r"train\.bin"):
            batches.micro_batches(2, 2)
