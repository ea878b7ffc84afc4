import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.data import Sequences, batch_numbers, sequence_number, shuffled
from inheritune.errors import InputError


@given(st.integers(1, 700), st.integers(0, 2**31), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    assert sorted(shuffled(place, count, seed, epoch) for place in range(count)) == list(range(count))


def test_epochs_and_seeds_differ_and_are_well_mixed() -> None:
    count = 2000
    orders = [[shuffled(p, count, seed, epoch) for p in range(count)] for seed, epoch in ((1, 0), (1, 1), (2, 0))]
    for one in range(3):
        for other in range(one):
            same = sum(a == b for a, b in zip(orders[one], orders[other], strict=True))
            assert same < 12  # two random permutations agree in 1 place on average
        correlation = np.corrcoef(orders[one], np.arange(count))[0, 1]
        assert abs(correlation) < 0.1


def test_position_of_a_trillion_costs_nothing() -> None:
    assert 0 <= sequence_number(10**12 + 5, 10**9, 1) < 10**9


def test_batches_go_through_the_epochs_without_gap_or_repeat() -> None:
    count, batch = 10, 4  # batches straddle the epochs
    numbers = [n for step in range(5) for n in batch_numbers(step, batch, count, 3)]
    assert sorted(numbers[:10]) == sorted(numbers[10:]) == list(range(10))


def test_order_does_not_depend_on_the_batch_size() -> None:
    small = [n for step in range(6) for n in batch_numbers(step, 2, 9, 5)]
    large = [n for step in range(2) for n in batch_numbers(step, 6, 9, 5)]
    assert small == large


def test_every_token_but_the_first_is_predicted_once() -> None:
    tokens = np.arange(38, dtype=np.uint16)
    sequences = Sequences(tokens, 5, "here")
    assert sequences.count == 7  # 37 predictions, 2 left out
    rows = sequences.rows(range(7))
    assert rows.shape == (7, 6)
    assert rows.dtype == np.int64
    assert rows[:, 1:].flatten().tolist() == list(range(1, 36))
    assert rows[:, :-1].flatten().tolist() == list(range(35))


def test_too_few_tokens_name_place_and_numbers() -> None:
    with pytest.raises(InputError, match=r"validation: 5 tokens do not fill one sequence of 5"):
        Sequences(np.arange(5), 5, "validation")
    assert Sequences(np.arange(6), 5, "validation").count == 1
