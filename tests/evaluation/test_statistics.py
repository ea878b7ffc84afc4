"""Estimates against scipy, matrices, numerical inversion and simulation."""

import itertools

import numpy as np
import pytest
from benchmarks.coverage import simulate
from scipy import optimize, stats

from inheritune.evaluation import Estimate, decide, gap, loss_of, mean, ratio
from inheritune.evaluation.statistics import tokens_to_decide


def test_with_equal_clusters_it_is_the_textbook() -> None:
    values = np.random.default_rng(1).normal(3, 1, 12)
    found, expected = mean(values.tolist()), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(stats.sem(values))
    assert found.margin == pytest.approx((expected.high - expected.low) / 2)
    assert found.df == pytest.approx(11)
    assert found.upper == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.90).high)
    assert loss_of(values.tolist(), [5] * 12).error == pytest.approx(found.error)
    assert mean([1.5]) == Estimate(1.5)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert mean([1.5]).upper is mean([1.5]).margin is mean([1.5]).interval is None


def test_error_and_degrees_of_freedom_with_unequal_clusters_against_matrices() -> None:
    """Bell and McCaffrey's formulas with the matrices written out."""
    random = np.random.default_rng(2)
    sizes = random.integers(1, 400, 15)
    sums = sizes * random.normal(3, 1, 15)
    found = ratio(sums.tolist(), sizes.tolist())
    annihilator = np.eye(15) - np.outer(sizes, np.ones(15)) / sizes.sum()
    working = np.diag(sizes.astype(float) ** 2)
    covariance = annihilator @ working @ annihilator.T
    residuals = annihilator @ sums
    variance = residuals @ residuals * np.trace(working) / np.trace(covariance) / sizes.sum() ** 2
    assert found.value == pytest.approx(sums.sum() / sizes.sum())
    assert found.error == pytest.approx(np.sqrt(variance))
    assert found.df == pytest.approx(np.trace(covariance) ** 2 / np.trace(covariance @ covariance))


def test_the_bound_is_the_inverse_of_halls_transformation() -> None:
    values = np.random.default_rng(3).exponential(size=25)
    found = ratio(values.tolist(), [1] * 25)
    skewness = stats.skew(values, bias=False) / 5
    assert found.skewness == pytest.approx(skewness)

    def transformed(quantile: float) -> float:
        return float(quantile + skewness * quantile**2 / 3 + skewness**2 * quantile**3 / 27 + skewness / 6)

    quantile = optimize.brentq(lambda at: transformed(at) - stats.t.ppf(0.05, 24), -20, 20)
    assert found.upper == pytest.approx(found.value - found.error * quantile)
    assert found.interval is not None
    for at, probability in ((0, 0.975), (1, 0.025)):
        quantile = optimize.brentq(lambda at, p=probability: transformed(at) - stats.t.ppf(p, 24), -20, 20)
        assert found.interval[at] == pytest.approx(found.value - found.error * quantile)
    assert found.upper > mean(values.tolist()).upper  # type: ignore[operator]  # a long tail above


def test_pairing_takes_out_what_both_models_find_hard() -> None:
    random = np.random.default_rng(2)
    hard = random.normal(3, 1, 50)
    reference, target = hard + random.normal(0, 0.01, 50), hard + 0.1 + random.normal(0, 0.01, 50)
    found = gap(target.tolist(), reference.tolist(), [7] * 50)
    difference = target - reference
    assert found.value == pytest.approx(difference.mean())
    assert found.error == pytest.approx(difference.std(ddof=1) / np.sqrt(50))
    assert loss_of(target.tolist(), [7] * 50).error > 10 * found.error  # type: ignore[operator]
    with pytest.raises(ValueError, match="shorter"):
        gap([1.0, 2.0], [1.0], [1, 1])


def test_a_cluster_without_tokens_changes_nothing() -> None:
    found, without = ratio([1, 3, 0, 4], [1, 2, 0, 1]), ratio([1, 3, 4], [1, 2, 1])
    assert (found.value, found.error, found.df) == pytest.approx((without.value, without.error, without.df))


@pytest.mark.parametrize(
    ("value", "error", "tolerance", "decision"),
    [
        (-0.1, 0.01, 0, "matched"), (-0.01, 0.01, 0, "undecided"), (0, 0.01, 0, "undecided"), (0.001, 0.01, 0, "behind"),
        (-0.01, 0.01, 0.01, "matched"), (0.009, 0.001, 0.01, "undecided"), (0.02, 0.5, 0.01, "behind"),
        (-5, None, 0, "undecided"), (0.01, 0, 0.01, "matched"),
    ],
)  # fmt: skip
def test_matched_is_shown_and_behind_is_a_larger_gap(
    value: float, error: float | None, tolerance: float, decision: str
) -> None:
    assert decide(Estimate(value, error), tolerance) == decision


def test_the_tokens_that_would_decide_do_decide() -> None:
    found = Estimate(-0.01, 0.02)
    needed = tokens_to_decide(found, 0.005, 10_000)
    assert needed is not None
    for tokens, decision in ((needed * 1.01, "matched"), (needed * 0.99, "undecided")):
        assert decide(Estimate(-0.01, 0.02 * np.sqrt(10_000 / tokens)), 0.005) == decision
    assert tokens_to_decide(Estimate(0.005, 0.02), 0.005, 10_000) is None
    assert tokens_to_decide(Estimate(-1, None), 0.005, 10_000) is None


@pytest.mark.parametrize(
    ("row", "least"),
    [((20, "equal", "normal", 0), 0.92), ((50, "unequal", "normal", 0), 0.92), ((20, "equal", "skewed", 0), 0.89),
     ((1, "equal", "none", 500), 0.91)],
)  # fmt: skip
def test_bounds_hold_as_often_as_they_say(row: tuple[int, str, str, int], least: float) -> None:
    """600 texts: the standard error of a share is 0.009. benchmarks/coverage.py has more of them."""
    upper, both, by_sequences = simulate(row, repeats=600, total=12_800, seed=3)
    assert min(upper, both) > least
    assert max(upper, both) < 0.985
    assert by_sequences < 0.75  # what these errors are for


def test_seeds_have_wide_intervals() -> None:
    widths = [mean([3.0, 3.1, *rest]).margin for rest in ([], [3.05], [3.02, 3.08])]
    assert all(a > 2 * b for a, b in itertools.pairwise(widths[:2]))  # type: ignore[operator]
    assert widths[0] == pytest.approx(12.706 * 0.05, rel=1e-3)
