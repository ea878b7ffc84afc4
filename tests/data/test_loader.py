"""The order of sequences: permutations as numpy draws them, whatever the batch, the step asked for, or the epoch."""

from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.data import Sequences, Shard, Tokens, batch_numbers, batch_windows, shuffled
from inheritune.errors import InputError


def order(count: int, seed: int = 1, epoch: int = 0) -> np.ndarray:
    return shuffled(np.arange(count), count, seed, epoch).astype(np.int64)


def chi_square(found: np.ndarray, cells: int) -> float:
    """Pearson's statistic of draws from `cells` equally likely cells, as standard deviations from its mean."""
    expected = len(found) / cells
    statistic = float(((np.bincount(found, minlength=cells) - expected) ** 2 / expected).sum())
    return (statistic - (cells - 1)) / np.sqrt(2 * (cells - 1))


@given(st.integers(1, 3000), st.integers(0, 2**31), st.integers(0, 2**40))
@settings(max_examples=150, deadline=None)
def test_every_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    assert np.sort(order(count, seed, epoch)).tolist() == list(range(count))


@pytest.mark.parametrize("count", [65_535, 65_536, 65_537, 10**6 + 3])
def test_large_counts_too(count: int) -> None:
    assert (np.bincount(order(count), minlength=count) == 1).all()


@pytest.mark.parametrize("count", [10**12 + 1, 2**40, 2**31 - 1])
def test_a_trillion_has_no_repeat_where_one_looks(count: int) -> None:
    for start in (0, count // 2, count - 100_000):
        found = shuffled(np.arange(start, start + 100_000), count, 1, 7)
        assert len(np.unique(found)) == 100_000
        assert int(found.max()) < count


def test_all_orders_of_a_few_are_equally_likely() -> None:
    for count in (2, 3, 4, 5):
        number_of = {every: number for number, every in enumerate(permutations(range(count)))}
        found = np.array([number_of[tuple(order(count, seed, 3).tolist())] for seed in range(120 * 12)])
        assert abs(chi_square(found, len(number_of))) < 4.5


@pytest.mark.long
@pytest.mark.parametrize("count", [11, 100, 1009])
def test_places_and_pairs_of_places_are_uniform(count: int) -> None:
    orders = np.stack([order(count, 5, epoch) for epoch in range(4000)])
    for place in (0, 1, count // 2, count - 1):
        assert abs(chi_square(orders[:, place], count)) < 4.5
    step = (orders[:, 1] - orders[:, 0]) % count  # neighbours: every distance but 0 is equally likely
    assert abs(chi_square(step - 1, count - 1)) < 4.5
    few = min(count, 30)  # the same place in epochs that follow each other
    both = orders[:-1, 3] * few // count * few + orders[1:, 3] * few // count
    cells = np.bincount(np.arange(count) * few // count, minlength=few) / count
    expected = np.outer(cells, cells).ravel() * len(both)
    statistic = ((np.bincount(both, minlength=few * few) - expected) ** 2 / expected).sum()
    assert abs(statistic - few * few + 1) < 4.5 * np.sqrt(2 * few * few)


def correlations(orders: list[np.ndarray]) -> list[float]:
    """Between each order and the next one, its own places, itself moved by 1, and by a power of two."""
    found = []
    for one, other in pairwise(orders):
        pairs = [(one, other), (one, np.arange(len(one))), (one[1:], one[:-1]), (one[64:], one[:-64])]
        found += [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]
    return found


def test_epochs_and_seeds_are_as_unlike_as_numpys_permutations() -> None:
    count = 10_001
    epochs, seeds = [order(count, 1, epoch) for epoch in range(40)], [order(count, seed, 0) for seed in range(40)]
    drawn = [np.random.default_rng(seed).permutation(count) for seed in range(40)]
    for ours in (epochs, seeds):
        ours_found, drawn_found = np.array(correlations(ours)), np.array(correlations(drawn))
        assert abs(ours_found).max() < 5 / np.sqrt(count)
        assert np.std(ours_found) == pytest.approx(np.std(drawn_found), rel=0.25)
        same = sum(int((a == b).sum()) for a, b in pairwise(ours))
        assert 15 <= same <= 70  # two random permutations agree in one place on average


def test_runs_up_and_down_are_as_long_as_numpys() -> None:
    """How often an order turns: 2 (n - 2) / 3 times on average, with variance (16 n - 29) / 90."""
    count = 90_000
    for epoch in range(5):
        steps = np.sign(np.diff(order(count, 2, epoch)))
        turns = int((steps[1:] != steps[:-1]).sum())
        assert abs(turns - 2 * (count - 2) / 3) < 4.5 * np.sqrt((16 * count - 29) / 90)


@given(st.integers(1, 60), st.integers(1, 90), st.integers(0, 12), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_batches_follow_the_epochs_whatever_their_size(count: int, batch: int, step: int, seed: int) -> None:
    found = batch_numbers(step, batch, count, seed)
    positions = range(step * batch, (step + 1) * batch)
    assert found == [int(order(count, seed, position // count)[position % count]) for position in positions]


def test_any_step_of_a_trillion_tokens_costs_the_same() -> None:
    found = batch_numbers(10**12 // 64, 64, 10**9, 1)
    assert len(set(found)) == 64
    assert max(found) < 10**9


@given(st.integers(1, 500), st.integers(1, 40), st.integers(0, 10**9), st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_windows_depend_on_the_position_alone(windows: int, batch: int, step: int, seed: int) -> None:
    found = batch_windows(step, batch, windows, seed)
    assert all(0 <= start < windows for start in found)
    assert found == [batch_windows(step * batch + place, 1, windows, seed)[0] for place in range(batch)]


def test_windows_are_uniform_and_repeat_as_draws_do() -> None:
    count = 1000
    found = np.array([start for step in range(200) for start in batch_windows(step, 500, count, 4)])
    assert abs(chi_square(found, count)) < 4.5
    assert abs(chi_square(found[1:] // 100 * 10 + found[:-1] // 100, 100)) < 4.5
    missed = count - len(set(found[:count].tolist()))
    assert missed == pytest.approx(count / np.e, rel=0.1)  # with replacement
    assert batch_windows(0, 500, count, 4) != batch_windows(0, 500, count, 5)


def test_windows_begin_anywhere_and_hold_what_follows() -> None:
    tokens = np.arange(38, dtype=np.uint16)
    sequences = Sequences(tokens, 5, "here", "with replacement")
    starts = np.concatenate([sequences.batch_starts(step, 50, 1) for step in range(20)])
    assert set(starts.tolist()) == set(range(33))  # 33 windows of 5 + 1 tokens
    assert sequences.windows(starts).windows.tolist() == [list(range(start, start + 6)) for start in starts]


def test_every_token_but_the_first_is_predicted_once(tmp_path: Path) -> None:
    tokens = np.arange(38, dtype=np.uint16)
    (tmp_path / "a.bin").write_bytes(tokens[:17].tobytes())
    (tmp_path / "b.bin").write_bytes(tokens[17:].tobytes())
    stored = Tokens([Shard(tmp_path / "a.bin", 17, ""), Shard(tmp_path / "b.bin", 21, "")], "uint16")
    for held in (tokens, stored):
        sequences = Sequences(held, 5, "here")
        assert sequences.count == 7  # 37 predictions, 2 left out
        rows = sequences.rows(range(7)).windows
        assert rows.shape == (7, 6)
        assert rows.dtype == np.int64
        assert rows[:, 1:].flatten().tolist() == list(range(1, 36))
        assert rows[:, :-1].flatten().tolist() == list(range(35))


def test_too_few_tokens_name_place_and_numbers() -> None:
    with pytest.raises(InputError, match=r"validation: 5 tokens do not fill one sequence of 5"):
        Sequences(np.arange(5), 5, "validation")
    assert Sequences(np.arange(6), 5, "validation").count == 1
