"""What a run's numbers advise: more tokens, another depth, or random weights. Sentences appear where numbers do."""

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from inheritune.report.curves import Points, noise
from inheritune.report.forecast import LONGEST, forecast_of
from inheritune.report.notation import about
from inheritune.results import ComparedLoss, Control, Outcome, ReferenceSummary, Round, RunState, TokensToMatch
from inheritune.runlog import read_metrics


def loss_to_gain(model: ComparedLoss, tolerance: float) -> float:
    """By how much the loss has to fall, at the same error, until the model is shown to match; not above 0: it is."""
    return (model.gap if model.gap_upper is None else model.gap_upper) - tolerance


def tokens_to_match(training: Path, model: ComparedLoss, tokens: int, tolerance: float) -> TokensToMatch | None:
    """A forecast from the curve in the folder of a training of `tokens` tokens that is done, and its judged `model`.

    None for a model that has matched, and where the curve gives no forecast.
    """
    missing = loss_to_gain(model, tolerance)
    made = forecast_of(training, is_done=True) if missing > 0 else None
    if made is None or made.last is None:
        return None
    times, longest = made.times_to_reach(made.last - missing), made.final(LONGEST)
    middle, low, high = (None if one is None else round(one * tokens) for one in (times.middle, times.low, times.high))
    return TokensToMatch(
        trained=tokens, middle=middle, low=low, high=high, most=round(LONGEST * tokens),
        loss_at_most=model.val_loss + longest.middle - made.last,
    )  # fmt: skip


def behind_until(control: Path, result: Path) -> int | None:
    """The training tokens up to which the curve of `control` is above that of `result` by more than their noise.

    0 where it never is; None where the two folders have no five common points to compare.
    """
    own, other = _curve(control), _curve(result)
    at = {point["tokens"]: point["val_loss"] for point in other}
    common = [(point["tokens"], point["val_loss"] - at[point["tokens"]]) for point in own if point["tokens"] in at]
    if len(common) < 5:
        return None
    doubt = math.hypot(noise(own), noise(other))
    return max((round(tokens) for tokens, over in common if over > doubt), default=0)


def _curve(folder: Path) -> Points:
    records = [one for one in read_metrics(folder / "metrics.jsonl") if "val_loss" in one and "tokens" in one]
    return [{"tokens": one["tokens"], "val_loss": one["val_loss"]} for one in records if one["step"]]


def tokens_sentence(result: Outcome, reference: ReferenceSummary) -> str:
    """How many training tokens would match; empty where there is no forecast."""
    found = result.tokens_to_match
    if found is None:
        return ""
    own, most = about(found.trained), about(found.most)
    if found.middle is not None:
        low = own if found.low is None else about(found.low)
        high = f"more than {most}" if found.high is None else about(found.high)
        return (
            f"Its curve suggests that about {about(found.middle)} training tokens instead of {own} would match (80 %"
            f" interval: {low} to {high}), given as much more text."
        )
    if found.low is not None:
        return f"Its curve suggests that more than {most} training tokens instead of {own} would be needed to match."
    return (
        f"Its curve suggests that even {most} training tokens instead of {own} would not match: they would bring it to"
        f" about {found.loss_at_most:.2f}, and the reference has {reference.val_loss:.2f}."
    )


def blocks_to_match(rounds: Sequence[Round], tolerance: float, total: int) -> int | None:
    """The number of blocks that would match at the rounds' length: between two rounds, or just above the deepest one.

    None where the gaps do not fall from round to round, and where the answer is a round, or far from all of them. Above
    the deepest one, three rounds must show how the gain of a block shrinks, and the answer must be no farther than
    the last step, and have fewer than the reference's `total` blocks.
    """
    found = [(one.layers, loss_to_gain(one, tolerance)) for one in rounds]
    if any(deeper <= depth or below >= above for (depth, above), (deeper, below) in pairwise(found)):
        return None
    for (depth, above), (deeper, below) in pairwise(found):
        if below <= 0 < above:
            blocks = math.ceil(depth + (deeper - depth) * above / (above - below))
            return blocks if blocks < deeper else None
    if len(found) < 3 or found[-1][1] <= 0:
        return None
    (_, before), (depth, above), (deeper, below) = found[-3:]
    steps = below / (above - below) / min(1.0, (above - below) / (before - above))
    blocks = math.ceil(deeper + steps * (deeper - depth))
    return blocks if steps <= 1 and blocks < total else None


def blocks_sentence(run: RunState) -> str:
    """How many blocks would match; empty where the rounds do not say it."""
    if run.reference is None:
        return ""
    blocks = blocks_to_match(run.rounds, run.tolerance, run.reference.layers)
    return (
        ""
        if blocks is None
        else f"The gaps of the rounds suggest that about {blocks} blocks would match at this length."
    )


def random_sentence(control: Control) -> str:
    """What a random control that is not worse than the result means."""
    low, high = control.over_result_interval or (-math.inf, math.inf)
    if low > 0:
        return ""
    text = "So inheriting does not pay at this length" if high < 0 else "So inheriting shows no gain at this length"
    if control.behind_until:
        text += f"; the inherited model was ahead up to about {about(control.behind_until)} training tokens"
    elif control.behind_until == 0:
        text += ", nor at an earlier point of the curve"
    return f"{text}."
