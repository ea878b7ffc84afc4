"""Equal budgets: training tokens over all of an arm's stages. Pure functions."""

from collections.abc import Sequence

from inheritune.comparison.planned import Planned
from inheritune.errors import InputError, Problem
from inheritune.recipe import Suite, Training


def tokens_of(training: Training, sequences: int | None) -> int | None:
    """Tokens that a training sees over a training set of `sequences` sequences; None where that must be known first."""
    if training.length.unit == "epochs" and sequences is None:
        return None
    return training.steps(sequences or 0) * training.batch_tokens


def is_equal(tokens: float, budget: int, step: int) -> bool:
    """Whether an arm's tokens are the suite's budget, to less than a step (the larger of the two, in tokens)."""
    return abs(tokens - budget) < step


def step_of(suite: Suite, arm: Planned) -> int:
    """Tokens of a step, the arm's or the suite's: by less than that, budgets that mean the same may differ."""
    return max(suite.train.batch_tokens, arm.training.batch_tokens)


def check_budgets(suite: Suite, planned: Sequence[Planned], sequences: dict[str, int] | None) -> None:
    """Raise InputError for arms whose budget differs and that do not declare it. `sequences` are those that each arm
    trains on (`""`: the suite); before they are known, only lengths in tokens and steps are looked at.
    """
    budget = tokens_of(suite.train, None if sequences is None else sequences[""])
    spent: dict[str, int | None] = {}
    problems = []
    for arm in planned:
        tokens = tokens_of(arm.training, None if sequences is None else sequences[arm.name])
        if arm.counts_source and arm.source is not None:
            before = spent[arm.source]
            tokens = None if tokens is None or before is None else tokens + before
        spent[arm.name] = tokens
        if (
            tokens is None
            or budget is None
            or arm.settings.allow_unequal
            or is_equal(tokens, budget, step_of(suite, arm))
        ):
            continue
        problems.append(
            Problem(
                f"arm {arm.name}: train.length",
                f"{tokens:,} tokens, the suite's arms have {budget:,}",
                "give it the same, or say in allow_unequal why it differs",
            )
        )
    if problems:
        raise InputError.of(problems)
