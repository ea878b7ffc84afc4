"""Standard errors and bounds of losses on text whose parts are not independent, and what they decide.

Tokens of one document resemble each other, so the text is divided into clusters (`data.clusters`): only these are taken
as independent. docs/evaluating.md has the measured coverage of the bounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from inheritune.data import FEW_DOCUMENTS, Clusters
from inheritune.results import Decision

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty. The error is None where there is only one value.

    `df` are the degrees of freedom of the error, `skewness` is that of the mean.
    """

    value: float
    error: float | None = None
    df: float = math.inf
    skewness: float = 0.0

    @property
    def upper(self) -> float | None:
        """The one-sided upper bound, with confidence 0.95; None where there is no error."""
        return None if self.error is None else self.value - self.error * self._quantile(1 - CONFIDENCE)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The two-sided interval, with confidence 0.95; None where there is no error."""
        if self.error is None:
            return None
        tail = (1 - CONFIDENCE) / 2
        return self.value - self.error * self._quantile(1 - tail), self.value - self.error * self._quantile(tail)

    @property
    def margin(self) -> float | None:
        """Half the width of the interval without the correction for skewness, as for seeds; None without an error."""
        return None if self.error is None else self.error * _student(self.df, (1 + CONFIDENCE) / 2)

    def _quantile(self, probability: float) -> float:
        """The quantile of (mean - expected value) / error: Student's, corrected for skewness.

        Source: Hall, On the removal of skewness by transformation, 1992 (the inverse of its cubic transformation).
        """
        plain = _student(self.df, probability)
        if abs(self.skewness) < 1e-6:
            return plain
        return 3 / self.skewness * (math.cbrt(1 + self.skewness * (plain - self.skewness / 6)) - 1)


def mean(values: Sequence[float]) -> Estimate:
    """The mean of independent values, as over seeds, without a correction for skewness."""
    of = ratio(values, [1] * len(values))
    return Estimate(of.value, of.error, of.df)


def ratio(sums: Sequence[float], sizes: Sequence[float], total: float | None = None) -> Estimate:
    """The sum of `sums` over that of `sizes` (or over `total`), where each pair is a cluster.

    The variance is that of the linearised ratio over the clusters (Cochran, Sampling techniques, 1977, section 2.11),
    multiplied so that it is exact where all tokens of a cluster vary as one; the degrees of freedom are Satterthwaite's
    for that case (Bell and McCaffrey, 2002). With equal sizes both are those of a mean of independent values.
    """
    sums_C, sizes_C = np.asarray(sums, np.float64), np.asarray(sizes, np.float64)
    size = math.fsum(sizes)
    value = math.fsum(sums) / (size if total is None else total)
    count = int((sizes_C > 0).sum())
    if count < 2:
        return Estimate(value)
    residuals_C = sums_C - math.fsum(sums) / size * sizes_C
    shares_C = sizes_C / size
    factor, df = _of_one_piece(shares_C)
    squares = math.fsum(residuals_C**2)
    error = math.sqrt(squares * factor) / size
    skewness = 0.0
    if count > 2 and squares > 0:
        skewness = math.fsum(residuals_C**3) / squares**1.5 * math.sqrt(count * (count - 1)) / (count - 2)
    return Estimate(value, error, df, skewness)


def _of_one_piece(shares_C: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float]:
    """The factor that makes the sum of squared residuals unbiased, and its degrees of freedom.

    `shares_C` are the clusters' sizes, whose sum is 1. A cluster's sum is taken to vary in proportion to its size.
    """
    variances_C = shares_C**2
    whole = variances_C.sum()
    # covariance of residuals i and j: -w_i v_j - w_j v_i + w_i w_j V, and v_i more on the diagonal
    off_C = -2 * shares_C * variances_C + whole * variances_C
    expected = (variances_C + off_C).sum()
    pairs = np.stack([shares_C, variances_C], axis=1)
    form = np.array([[whole, -1.0], [-1.0, 0.0]]) @ (pairs.T @ pairs)
    squared = np.trace(form @ form) + (2 * off_C * variances_C + variances_C**2).sum()
    return float(whole / expected), float(expected**2 / squared)


def gap(target: "Sequence[float]", reference: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """The target's loss less the reference's, over clusters of the same text (paired).

    `target` and `reference` have the mean loss of each cluster in nats a token, `tokens` their sizes.
    """
    differences = [(a - b) * size for a, b, size in zip(target, reference, tokens, strict=True)]
    return ratio(differences, tokens)


def loss_of(losses: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """The mean loss of all tokens, from the mean loss and the number of tokens of each cluster."""
    return ratio([loss * size for loss, size in zip(losses, tokens, strict=True)], tokens)


def decide(between: Estimate, tolerance: float) -> Decision:
    """Whether a gap has been shown to be at most the tolerance (both in nats a token).

    `matched`: its upper bound is at most the tolerance. `undecided`: only the gap is, or there is no bound. `behind`:
    the gap is larger.
    """
    if between.value > tolerance:
        return "behind"
    return "matched" if between.upper is not None and between.upper <= tolerance else "undecided"


def tokens_to_decide(between: Estimate, tolerance: float, tokens: int) -> int | None:
    """About how many validation tokens would show that this gap is within the tolerance; None where no number would.

    `tokens` is how many there were. The error is taken to fall with the root of their number.
    """
    if between.upper is None or between.value >= tolerance:
        return None
    return math.ceil(tokens * ((between.upper - between.value) / (tolerance - between.value)) ** 2)


def few_documents(clusters: Clusters, place: str) -> str | None:
    """A sentence where the text in `place` has too few documents for an error that holds for other ones."""
    if clusters.effective_documents >= FEW_DOCUMENTS:
        return None
    many = "1 document" if clusters.documents == 1 else f"{clusters.documents} documents"
    if clusters.documents >= FEW_DOCUMENTS:
        many += f" of very unequal size, like {clusters.effective_documents:.0f} equal ones"
    divided = "; errors hold for more text of the same documents, not for others" if clusters.is_divided else ""
    return f"{place}: {many}, so standard errors are rough{divided}. Give {FEW_DOCUMENTS} documents or more"


def _student(df: float, probability: float) -> float:
    return float(stdtrit(min(df, 1e9), probability))
