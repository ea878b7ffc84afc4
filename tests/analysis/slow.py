"""Attention's figures the slow way: float64 numpy, one matrix at a time, from the definitions."""

from typing import Any

import numpy as np

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def rank(matrix: Any, tau: float) -> int:
    """k*: the least number of singular values whose squares hold tau of all squares."""
    squares = np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False) ** 2
    return _least(squares, tau)


def mass(matrix: Any, tau: float) -> int:
    """m*: the least number of columns whose squared norms hold tau of the squared Frobenius norm."""
    columns = [float(sum(value * value for value in column)) for column in np.asarray(matrix, np.float64).T]
    return _least(np.array(sorted(columns, reverse=True)), tau)


def _least(falling: Matrix, tau: float) -> int:
    for count in range(1, len(falling) + 1):
        if falling[:count].sum() >= (tau - 1e-9) * falling.sum():
            return count
    return len(falling)


def entropy(matrix: Any) -> float:
    """The mean over rows of -sum p log p, in nats."""
    return float(np.mean([sum(-p * np.log(p) for p in row if p > 0) for row in np.asarray(matrix, np.float64)]))


def sink(matrix: Any) -> float:
    """The mean of the first column."""
    return float(np.mean([row[0] for row in np.asarray(matrix, np.float64)]))


def softmax(scores: Matrix) -> Matrix:
    """Causal softmax of (T, T) scores, row by row."""
    out = np.zeros_like(scores)
    for at, row in enumerate(scores):
        raised = np.exp(row[: at + 1] - row[: at + 1].max())
        out[at, : at + 1] = raised / raised.sum()
    return out


def causal(seed: int, length: int, sharpness: float = 2.0) -> Matrix:
    """A random causal attention matrix; the sharper, the nearer its rows are to one-hot."""
    return softmax(np.random.default_rng(seed).normal(size=(length, length)) * sharpness)


def cosines(left: Any, right: Any) -> Matrix:
    """The cosine of every pair of vectors of (..., D), in float64."""
    left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
    found: Matrix = (left * right).sum(-1) / np.sqrt((left**2).sum(-1) * (right**2).sum(-1))
    return found
