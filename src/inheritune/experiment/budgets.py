"""Equal budgets: training tokens over all of an arm's stages. Pure functions."""

from collections.abc import Sequence

from inheritune.errors import InputError, Problem
from inheritune.experiment.plan import PlannedArm
from inheritune.experiment.suite import Suite
from inheritune.recipe import Training


def tokens_of(training: Training, sequences: int | None) -> int | None:
    """Tokens that a training sees in a training set of `sequences` sequences; None where that must be known first."""
    if training.length.unit == "epochs" and sequences is None:
        return None
    return training.steps(sequences or 0) * training.batch_tokens


def is_equal(tokens: float, budget: int, suite: Suite, arm: PlannedArm) -> bool:
    """Whether an arm's tokens are the suite's budget, to less than a step (the larger of the arm's and the suite's)."""
    return abs(tokens - budget) < max(suite.train.batch_tokens, arm.training.batch_tokens)


def check_budgets(suite: Suite, arms: Sequence[PlannedArm], sequences: dict[str, int] | None) -> None:
    """Raise InputError for arms whose budget differs from the suite's and that do not declare it.

    `sequences` are those that each arm trains on (`""`: the suite's); before they are known (None), only lengths in
    tokens and steps are compared.
    """
    counts: dict[str, int | None] = dict(sequences or {})
    budget = tokens_of(suite.train, counts.get(""))
    spent: dict[str, int | None] = {}
    problems = []
    for arm in arms:
        tokens = tokens_of(arm.training, counts.get(arm.name))
        if arm.counts_source and arm.source is not None:
            before = spent[arm.source]
            tokens = None if tokens is None or before is None else tokens + before
        spent[arm.name] = tokens
        if tokens is None or budget is None or arm.settings.allow_unequal or is_equal(tokens, budget, suite, arm):
            continue
        what = f"{tokens:,} tokens, the suite's arms have {budget:,}"
        remedy = "give it the same, or say in allow_unequal why it differs"
        problems.append(Problem(f"arm {arm.name}: train.length", what, remedy))
    if problems:
        raise InputError.of(problems)
