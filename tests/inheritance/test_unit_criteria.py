"""Criteria on matrices of their own, against removing units and solving least squares for the others."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.inheritance.units.criteria import CRITERIA
from inheritune.inheritance.units.criteria.base import Units, Worths
from inheritune.inheritance.units.criteria.error import RIDGE
from inheritune.inheritance.units.watching import InputSums, Routing

Arrays = tuple[np.ndarray, np.ndarray]


def drawn(tokens: int, inputs: int, outputs: int, seed: int = 0) -> Arrays:
    """Correlated inputs (N, K), and weights (K, D)."""
    random = np.random.default_rng(seed)
    return random.normal(size=(tokens, inputs)) @ random.normal(size=(inputs, inputs)), random.normal(
        size=(inputs, outputs)
    )


def worths(name: str, arrays: Arrays, size: int = 1) -> Worths:
    inputs, weight = arrays
    sums = InputSums(torch.from_numpy(inputs.T @ inputs), torch.from_numpy(np.abs(inputs).sum(0)))
    count = len(weight) // size
    norms = torch.from_numpy(np.linalg.norm(weight.reshape(count, -1), axis=1))
    return CRITERIA[name]().worths(Units("neurons", count, size, torch.from_numpy(weight), norms, sums))


def left_error(arrays: Arrays, gone: list[int]) -> float:
    """The squared error when these inputs are gone and the weights of the others are fitted, with the ridge."""
    inputs, weight = arrays
    held = np.sqrt(RIDGE * (inputs**2).sum(0).mean()) * np.eye(len(weight))
    rows, goal = np.vstack([inputs, held]), np.vstack([inputs @ weight, held @ weight])
    kept = [place for place in range(len(weight)) if place not in gone]
    fitted = np.linalg.lstsq(rows[:, kept], goal, rcond=None)[0] if kept else np.zeros((0, goal.shape[1]))
    return float(((goal - rows[:, kept] @ fitted) ** 2).sum())


@settings(deadline=None, max_examples=25)
@given(size=st.sampled_from([1, 2, 3]), seed=st.integers(0, 1000), data=st.data())
def test_what_units_cost_is_what_least_squares_without_them_loses(size: int, seed: int, data: st.DataObject) -> None:
    arrays = drawn(40, 12, 5, seed)
    found, whole = worths("error", arrays, size), left_error(arrays, list(range(12)))
    order, gone, lost = data.draw(st.permutations(range(12 // size))), list[int](), 0.0
    for unit in order[:-1]:
        cost = found.cost([unit])
        gone += range(unit * size, (unit + 1) * size)
        assert lost + cost == pytest.approx(left_error(arrays, gone) / whole, rel=1e-6, abs=1e-9)
        found.drop([unit])
        lost += cost
        assert found.lost == pytest.approx(lost)


@pytest.mark.parametrize("size", [1, 3])
def test_units_go_one_after_the_other_the_cheapest_first(size: int) -> None:
    arrays, gone, left = drawn(60, 24, 5), list[int](), list(range(24 // size))

    def inputs(units: list[int]) -> list[int]:
        return [unit * size + place for unit in units for place in range(size)]

    for _ in range(3):
        best = min(left, key=lambda unit: left_error(arrays, inputs([*gone, unit])))
        gone.append(best)
        left.remove(best)
    assert worths("error", arrays, size).drop_least(range(24 // size), 3) == gone


def test_of_two_units_that_do_the_same_only_one_goes_early() -> None:
    inputs, weight = drawn(400, 96, 8)
    inputs[:, 60] = 2 * inputs[:, 7]
    found = worths("error", (inputs, weight))
    first = found.drop_least(range(96), 1)
    assert first[0] in (7, 60)
    twin = {7, 60} - set(first)
    rest = found.drop_least([unit for unit in range(96) if unit not in first], 50)  # more than go at once
    assert not twin & set(rest[:20])
    again = worths("error", (inputs, weight)).drop_least(range(96), 51)
    assert again[0] in (7, 60)
    assert len(set(again)) == 51


def test_no_pair_is_much_cheaper_than_the_one_that_goes() -> None:
    arrays = drawn(60, 14, 4)
    found = worths("error", arrays)
    found.drop_least(range(14), 2)
    pairs = [left_error(arrays, list(pair)) for pair in combinations(range(14), 2)]
    assert found.lost * left_error(arrays, list(range(14))) <= 1.5 * min(pairs)


def test_a_magnitude_is_the_norm_of_a_units_weights() -> None:
    arrays = drawn(10, 6, 4)
    norms = np.linalg.norm(arrays[1].reshape(3, 8), axis=1)
    found = worths("magnitude", arrays, 2)
    assert found.drop_least([0, 1, 2], 1) == [int(norms.argmin())]
    assert found.lost == pytest.approx(norms.min() / norms.sum())


def test_an_activation_counts_with_its_weights() -> None:
    arrays = drawn(10, 6, 4)
    scores = (np.abs(arrays[0]).sum(0) * np.linalg.norm(arrays[1], axis=1)).reshape(3, 2).sum(1)
    assert worths("activation", arrays, 2).drop_least([0, 1, 2], 2) == scores.argsort()[:2].tolist()


def test_experts_go_by_the_routers_weights() -> None:
    routing = Routing(torch.tensor([9.0, 1.0, 3.0]), torch.tensor([0.5, 0.9, 2.0]))
    assert CRITERIA["router"]().worths(Units("experts", 3, routing=routing)).drop_least(range(3), 2) == [0, 1]
