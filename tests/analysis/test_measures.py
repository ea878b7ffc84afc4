"""The measures against definitions in float64 numpy, and matrices whose answers are known."""

import math

import numpy as np
import pytest
import slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.analysis import (
    angular_distance,
    approximate_rank,
    approximate_ranks,
    block_influence,
    column_mass,
    depth_distances,
    is_lazy,
    lazy_groups,
    row_entropy,
    sink_weight,
    valid_only,
)
from inheritune.errors import InputError

TAUS = (0.5, 0.8, 0.9, 0.95, 0.99)
SIZE = 20
IDENTITY = torch.eye(SIZE)
UNIFORM = torch.ones(SIZE, SIZE).tril() / torch.arange(1, SIZE + 1)[:, None]
FIRST = torch.zeros(SIZE, SIZE).index_fill_(1, torch.tensor([0]), 1.0)


def heads(batch: int = 3, count: int = 4, length: int = 24) -> torch.Tensor:
    """Attention (B, H, T, T) in float32 from nearly uniform to nearly one-hot."""
    made = [
        [slow.causal(7 * row + head, length, 0.2 + 1.5 * head) for head in range(count)] for row in range(batch)
    ]  # fmt: skip
    return torch.tensor(np.array(made), dtype=torch.float32)


@pytest.mark.parametrize("length", [1, 2, 24, 100])
def test_ranks_and_mass_are_those_of_the_definitions(length: int) -> None:
    given_BHTT = heads(2, 3, length)
    ranks = approximate_rank(given_BHTT, TAUS)
    assert ranks.shape == (2, 3, len(TAUS))
    for row in range(2):
        for head in range(3):
            matrix = given_BHTT[row, head].numpy()
            assert ranks[row, head].tolist() == [slow.rank(matrix, tau) for tau in TAUS]
            for tau in TAUS:
                assert int(column_mass(given_BHTT, tau)[row, head]) == slow.mass(matrix, tau)
            assert float(row_entropy(given_BHTT)[row, head]) == pytest.approx(slow.entropy(matrix), abs=1e-5)
            assert float(sink_weight(given_BHTT)[row, head]) == pytest.approx(slow.sink(matrix), abs=1e-6)


@pytest.mark.parametrize("tau", TAUS)
def test_matrices_with_known_answers(tau: float) -> None:
    """All singular values of the identity are 1, so it takes tau of them; one column alone is of rank 1."""
    whole = math.ceil(round(tau * SIZE, 9))
    assert (int(approximate_rank(IDENTITY, (tau,))), int(column_mass(IDENTITY, tau))) == (whole, whole)
    assert (int(approximate_rank(FIRST, (tau,))), int(column_mass(FIRST, tau))) == (1, 1)
    # column j of uniform attention holds 1/(i+1)^2 of each row i from j on
    norms = [math.fsum(1 / (row + 1) ** 2 for row in range(column, SIZE)) for column in range(SIZE)]
    held = [math.fsum(norms[: count + 1]) / math.fsum(norms) for count in range(SIZE)]
    assert int(column_mass(UNIFORM, tau)) == next(at + 1 for at, share in enumerate(held) if share >= tau)
    assert int(approximate_rank(UNIFORM, (tau,))) == slow.rank(UNIFORM.numpy(), tau)


def test_sink_and_entropy_with_known_answers() -> None:
    assert [float(sink_weight(one)) for one in (IDENTITY, FIRST)] == pytest.approx([1 / SIZE, 1])
    assert float(sink_weight(UNIFORM)) == pytest.approx(math.fsum(1 / n for n in range(1, SIZE + 1)) / SIZE)
    assert [float(row_entropy(one)) for one in (IDENTITY, FIRST)] == [0, 0]
    assert float(row_entropy(UNIFORM)) == pytest.approx(math.fsum(map(math.log, range(1, SIZE + 1))) / SIZE)


@pytest.mark.parametrize("rank", [1, 2, 5, 10, 20])
def test_a_rank_by_construction(rank: int) -> None:
    """`rank` equal singular values and no others: tau of them are needed, and all of them for nearly all."""
    random = np.random.default_rng(rank)
    left, right = (np.linalg.qr(random.normal(size=(SIZE, SIZE)))[0][:, :rank] for _ in range(2))
    made = torch.tensor(left @ right.T, dtype=torch.float32)
    found = approximate_rank(made, (0.5, 0.9, 0.999))
    assert found.tolist() == [math.ceil(rank / 2), math.ceil(round(0.9 * rank, 9)), rank]


@settings(deadline=None, max_examples=60)
@given(
    st.integers(33, 90),
    st.integers(0, 10_000),
    st.floats(0, 3),
    st.integers(1, 30),
    st.sampled_from([0.3, 0.8, 0.9, 0.97]),
)
def test_ranks_by_bounds_are_those_of_all_eigenvalues(
    length: int, seed: int, decay: float, equal: int, tau: float
) -> None:
    """Spectra that fall fast or slowly behind a first direction of any share, with runs of equal values."""
    random = np.random.default_rng(seed)
    rest = (1.0 + np.arange(length - 1) // equal) ** -decay
    made = []
    for share in (0.02, 0.12, 0.25, 0.35, 0.5, 0.8):  # of everything but the first direction
        left, right = (np.linalg.qr(random.normal(size=(length, length)))[0] for _ in range(2))
        values = np.concatenate([[1 - share], share * rest / rest.sum()])
        made.append((left * np.sqrt(values)) @ right.T)
    many = torch.tensor(np.array(made), dtype=torch.float32)
    assert approximate_rank(many, (tau,))[:, 0].tolist() == [slow.rank(one, tau) for one in many.double().numpy()]


def test_ranks_leave_the_threads_as_they_were() -> None:
    before = torch.get_num_threads()
    many = torch.tensor(np.array([slow.causal(seed, 100, 3.0) for seed in range(8)]), dtype=torch.float32)
    try:
        torch.set_num_threads(2)
        several = approximate_rank(many.repeat(60, 1, 1))
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert torch.equal(several, approximate_rank(many.repeat(60, 1, 1)))
    finally:
        torch.set_num_threads(before)


def test_two_different_singular_values() -> None:
    made = torch.diag(torch.tensor([3.0, 1.0, 0.0]))  # 9 and 1 of 10: just 0.9 in the first
    assert approximate_rank(made, (0.899, 0.9, 0.901)).tolist() == [1, 1, 2]
    assert [int(column_mass(made, tau)) for tau in (0.899, 0.9, 0.901)] == [1, 1, 2]


@pytest.mark.parametrize("tau", [(0.0,), (1.0,), (0.9, 1.5), (-0.1,), (math.nan,), (), (0.9, 0.9)])
def test_a_tau_that_is_none(tau: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"tau: got .*; give shares .* above 0 and below 1"):
        approximate_rank(IDENTITY, tau)
    if len(tau) == 1:
        with pytest.raises(InputError, match="tau: got"):
            column_mass(IDENTITY, tau[0])


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 24), st.integers(0, 10_000), st.floats(0.01, 20), st.floats(0.05, 0.98), st.floats(0.1, 100))
def test_what_holds_for_every_matrix(length: int, seed: int, sharpness: float, tau: float, scale: float) -> None:
    made = slow.causal(seed, length, sharpness)
    matrix = torch.tensor(made, dtype=torch.float64)
    low, high = approximate_rank(matrix, (tau, (1 + tau) / 2)).tolist()
    assert 1 <= low <= high <= length
    assert low <= int(column_mass(matrix, tau)) <= length  # no columns hold more than as many singular directions
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    assert abs(int(approximate_rank(matrix[order][:, order], (tau,))) - low) == 0
    assert int(approximate_rank(matrix * scale, (tau,))) == low
    assert 0 <= float(row_entropy(matrix)) <= math.log(length) + 1e-6
    assert 0 < float(sink_weight(matrix)) <= 1 + 1e-6


def test_it_does_not_matter_what_is_passed_together() -> None:
    given_BHTT = heads(5, 3)
    whole = approximate_rank(given_BHTT, TAUS)
    for one in range(5):
        assert torch.equal(approximate_rank(given_BHTT[one : one + 1], TAUS), whole[one : one + 1])
    assert torch.equal(approximate_rank(given_BHTT[0, 0], TAUS), whole[0, 0])  # also without leading dimensions
    assert torch.equal(approximate_rank(given_BHTT, TAUS[::-1]), whole.flip(-1))
    many = given_BHTT.flatten(0, 1).repeat(40, 1, 1)  # more than go through one call of the eigenvalue routine
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(approximate_rank(many, TAUS), whole.flatten(0, 1).repeat(40, 1))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side: str) -> None:
    given_BHTT, pad = heads(2, 3, 16), 5
    generator = torch.Generator().manual_seed(0)
    padded = torch.rand(2, 3, 16 + pad, 16 + pad, generator=generator).tril()  # rubbish where padding is
    real = slice(pad, None) if side == "left" else slice(0, 16)
    valid_BT = torch.zeros(2, 16 + pad, dtype=torch.bool)
    padded[..., real, :] = 0
    padded[..., real, real] = given_BHTT
    valid_BT[:, real] = True
    cleaned = valid_only(padded, valid_BT)
    assert torch.equal(approximate_rank(cleaned, TAUS), approximate_rank(given_BHTT, TAUS))
    assert torch.equal(column_mass(cleaned), column_mass(given_BHTT))
    assert torch.allclose(sink_weight(padded, valid_BT), sink_weight(given_BHTT))
    assert torch.allclose(row_entropy(padded, valid_BT), row_entropy(given_BHTT))
    assert not torch.equal(column_mass(padded), column_mass(given_BHTT))  # it is there to be cleaned


def test_half_precision_is_within_two_percent() -> None:
    given_BHTT = heads(6, 4, 48)
    for tau in (0.8, 0.9):
        exact = np.mean([[slow.rank(one, tau) for one in row] for row in given_BHTT.numpy()])
        coarse = approximate_rank(given_BHTT.bfloat16(), (tau,)).double().mean()
        assert float(coarse) == pytest.approx(exact, rel=0.02)
    masses = [float(column_mass(one).double().mean()) for one in (given_BHTT, given_BHTT.bfloat16())]
    assert masses[1] == pytest.approx(masses[0], rel=0.02)
    for figure in (sink_weight, row_entropy):
        assert torch.allclose(figure(given_BHTT.bfloat16()), figure(given_BHTT), rtol=0.02, atol=1e-3)


def test_influence_and_distance_are_those_of_the_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(3, 5, 8, generator=generator) for _ in range(4)]
    influence_BL, distances_BLL = depth_distances(states)
    assert influence_BL.shape == (3, 3)
    assert distances_BLL.shape == (3, 4, 4)
    for left in range(4):
        for right in range(4):
            cosines = slow.cosines(states[left].numpy(), states[right].numpy())
            angles = (np.arccos(cosines.clip(-1, 1)) / np.pi).mean(1)
            assert distances_BLL[:, left, right].numpy() == pytest.approx(angles, abs=1e-6)
            assert angular_distance(states[left], states[right]).numpy() == pytest.approx(angles, abs=1e-6)
            moved = (1 - cosines).mean(1)
            assert block_influence(states[left], states[right]).numpy() == pytest.approx(moved, abs=1e-9)
            if right == left + 1:
                assert influence_BL[:, left].numpy() == pytest.approx(moved, abs=1e-9)


def test_influence_and_distance_with_known_answers() -> None:
    one = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    quarter, opposite = torch.tensor([[[0.0, 3.0], [5.0, 0.0]]]), -4 * one
    cases = [(3 * one, 0, 0), (quarter, 1, 0.5), (opposite, 2, 1)]
    for after, influence, angle in cases:
        assert float(block_influence(one, after)) == pytest.approx(influence, abs=1e-12)
        assert float(angular_distance(one, after)) == pytest.approx(angle, abs=1e-7)


def test_a_lazy_layer_is_one_of_rank_1() -> None:
    assert [is_lazy(rank) for rank in (1.0, 1.4, 1.999, 2.0, 30.0)] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("ranks", "groups"),
    [
        ([9, 1.4, 1.2, 9], [[1, 2]]),
        ([9, 1.4, 9, 1.2], []),  # a layer alone is no group
        ([1.1, 1.1, 2.5, 1.1], [[0, 1, 2, 3]]),  # mean 1.45: one that is not lazy may be among them
        ([1.0, None, 1.0, 1.0], [[2, 3]]),
        ([1.2, 1.2, 9, 9, 1.5, 1.5, 1.5], [[0, 1], [4, 5, 6]]),
        ([None, None], []),
        ([], []),
    ],
)
def test_lazy_groups(ranks: list[float | None], groups: list[list[int]]) -> None:
    assert lazy_groups(ranks) == groups


@settings(deadline=None, max_examples=100)
@given(st.lists(st.none() | st.floats(1, 6), max_size=9))
def test_lazy_groups_are_runs_that_are_lazy(ranks: list[float | None]) -> None:
    groups = lazy_groups(ranks)
    listed = [layer for group in groups for layer in group]
    assert listed == sorted(set(listed))
    for group in groups:
        held = [ranks[layer] for layer in group]
        assert len(group) > 1
        assert group == list(range(group[0], group[-1] + 1))
        assert math.floor(float(np.mean(held)) + 1e-12) == 1  # type: ignore[arg-type]
    for first in range(len(ranks) - 1):  # two lazy neighbours are never missed
        pair = ranks[first : first + 2]
        if None not in pair and sum(pair) / 2 < 2:  # type: ignore[arg-type]
            assert {first, first + 1} & set(listed)


def test_ranks_of_several_are_those_of_each() -> None:
    generator = torch.Generator().manual_seed(3)
    several = [torch.rand(2, heads, length, length, generator=generator).tril() for heads, length in ((3, 40), (1, 7))]
    several.append(several[0].bfloat16())
    found = approximate_ranks([*several, torch.rand(0, 2, 5, 5)], (0.9, 0.5))
    for one, ranks in zip(several, found, strict=False):
        assert ranks.tolist() == approximate_rank(one, (0.9, 0.5)).tolist()
        assert ranks.shape == (*one.shape[:2], 2)
    assert found[3].shape == (0, 2, 2)
    assert approximate_ranks([]) == []


def test_column_masses_near_the_share_are_decided_in_float64() -> None:
    """Two columns of squared norms 9 and 1: at a share of 0.9 and less it takes one, a little above it takes two."""
    matrix = torch.zeros(4, 4)
    matrix[:2, :2] = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert column_mass(matrix, 0.9) == 1
    assert column_mass(matrix, 0.9 - 1e-7) == 1
    assert column_mass(matrix, 0.9 + 1e-7) == 2
