"""Conversations in sequences: whole ones where they fit, only targets that count, the same for any micro-batch."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.data import BEGINS, COUNTS, IGNORED, Batches, MarkedTokens, Packing, Sequences, clusters_of
from inheritune.errors import InputError

SIZES = st.lists(st.integers(2, 14), min_size=1, max_size=12)
LONG = st.sampled_from(["truncate", "drop", "split"])


def row_of(sizes: list[int], seed: int = 0) -> MarkedTokens:
    """Conversations of these sizes; every token is its place in the row, and about half of them count."""
    draw = np.random.default_rng(seed)
    marks = (draw.random(sum(sizes)) < 0.5).astype(np.uint8) * np.uint8(COUNTS)
    begins = np.cumsum([0, *sizes[:-1]])
    marks[begins] = BEGINS
    return MarkedTokens(np.arange(sum(sizes), dtype=np.int64), marks)


def slow(sizes: list[int], length: int, long: str) -> list[list[int]]:
    """The tokens of each sequence, one conversation after the other."""
    found: list[list[int]] = []
    open_ = False
    begin = 0
    for size in sizes:
        tokens = list(range(begin, begin + size))
        begin += size
        if size > length + 1:
            open_ = False
            if long == "truncate":
                found.append(tokens[: length + 1])
            elif long == "split":
                found += [tokens[at : at + length + 1] for at in range(0, size - 1, length)]
        elif open_ and len(found[-1]) + size <= length + 1:
            found[-1] += tokens
        else:
            found.append(tokens)
            open_ = True
    return found


@given(SIZES, st.integers(3, 12), LONG)
@settings(max_examples=200, deadline=None)
def test_sequences_hold_whole_conversations(sizes: list[int], length: int, long: Any) -> None:
    row, expected = row_of(sizes), slow(sizes, length, long)
    if not expected:
        with pytest.raises(InputError, match="no conversation fits"):
            Sequences(row, length, "test", packing=Packing(long_conversations=long))
        return
    text = Sequences(row, length, "test", packing=Packing(long_conversations=long))
    examples = text.rows(range(text.count)).examples()
    assert text.count == len(expected)
    assert examples.inputs.shape == examples.targets.shape == (len(expected), length)
    for number, tokens in enumerate(expected):
        assert examples.lengths[number] == len(tokens) - 1
        assert examples.inputs[number, : len(tokens) - 1].tolist() == tokens[:-1]
        counted = [token if row.marks[token] & COUNTS else IGNORED for token in tokens[1:]]
        assert examples.targets[number].tolist() == counted + [IGNORED] * (length - len(counted))
    held = {token for tokens in expected for token in tokens}
    assert text.left_over == len(row) - len(held)
    assert text.placement is not None
    assert text.placement.longer == sum(size > length + 1 for size in sizes)


@given(SIZES, st.integers(3, 12))
@settings(max_examples=50, deadline=None)
def test_split_ones_predict_every_target_once(sizes: list[int], length: int) -> None:
    row = row_of(sizes)
    text = Sequences(row, length, "test", packing=Packing(long_conversations="split"))
    targets = text.rows(range(text.count)).examples().targets
    assert sorted(targets[targets != IGNORED].tolist()) == np.flatnonzero(row.marks & COUNTS).tolist()


@given(SIZES, st.integers(3, 12), LONG)
@settings(max_examples=100, deadline=None)
def test_clusters_are_conversations(sizes: list[int], length: int, long: Any) -> None:
    row, whole = row_of(sizes), np.repeat(np.arange(len(sizes)), sizes)
    if not slow(sizes, length, long):
        return
    text = Sequences(row, length, "test", packing=Packing((), 1, long_conversations=long))  # 1: a token of the text
    clusters = clusters_of(text)
    examples = text.rows(range(text.count)).examples()
    assert examples.segments is not None
    ids = clusters.of(range(text.count), examples.targets.numpy(), examples.segments.numpy())
    counts = examples.targets != IGNORED
    pairs = set(zip(whole[examples.targets[counts].numpy()].tolist(), ids[counts.numpy()].tolist(), strict=True))
    assert sum(clusters.tokens) == int(counts.sum())
    if not clusters.is_divided:
        assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})
        assert clusters.documents == len(pairs)


def test_attention_inside_each_conversation() -> None:
    text = Sequences(row_of([3, 4, 9]), 9, "test", packing=Packing(documents=True))
    positions = text.rows([0, 1]).examples().positions
    assert positions is not None
    assert positions.tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7, 8]]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_micro_batches_of_any_size_have_the_same_targets_and_one_shape(size: int) -> None:
    text = Sequences(row_of([5, 3, 9, 4, 12, 2, 7, 6]), 8, "test")
    for step in range(3):
        parts = Batches(text, 5, seed=3).micro_batches(step, size)
        whole = Batches(text, 5, seed=3).micro_batches(step, 5)[0].examples
        assert {tuple(part.examples.inputs.shape) for part in parts} == {(size, 8)}
        assert torch.equal(torch.cat([part.examples.targets for part in parts])[:5], whole.targets)
        assert sum(part.counted for part in parts) == whole.counted


def test_batches_of_equal_lengths_have_no_padding() -> None:
    text = Sequences(row_of([5, 3, 9, 4, 12, 2, 7, 6]), 8, "test")
    rows = text.rows(range(text.count))
    for numbers, examples in rows.batches(4):
        assert set(examples.lengths) == {examples.inputs.shape[1]}
        assert torch.equal(examples.inputs, rows.rows(numbers).examples().inputs[:, : examples.inputs.shape[1]])


def test_what_would_cut_conversations_is_refused() -> None:
    with pytest.raises(InputError, match="with replacement"):
        Sequences(row_of([5]), 4, "test", "with replacement")
    with pytest.raises(InputError, match="prefix"):
        Sequences(row_of([5]), 4, "test", packing=Packing(prefix=(0,)))
