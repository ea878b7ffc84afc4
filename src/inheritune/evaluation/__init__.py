"""Judging models: losses of validation sequences, bits per byte of any text, tasks; several models side by side."""

from inheritune.evaluation.account import evaluate
from inheritune.evaluation.groups import GROUPS, HARNESS, has_pinned, with_averages
from inheritune.evaluation.judging import (
    Evaluation,
    Mean,
    figures,
    gap,
    is_matched,
    judge,
    judge_on,
    mean,
    sequence_losses,
)

__all__ = [
    "GROUPS",
    "HARNESS",
    "Evaluation",
    "Mean",
    "evaluate",
    "figures",
    "gap",
    "has_pinned",
    "is_matched",
    "judge",
    "judge_on",
    "mean",
    "sequence_losses",
    "with_averages",
]
