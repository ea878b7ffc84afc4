"""A run as people read it: the verdict in a few sentences, and the table. Pure functions of its results."""

import math

from inheritune.report.advice import blocks_sentence, random_sentence, tokens_sentence
from inheritune.report.notation import many, short, with_error
from inheritune.report.page import BAD, GOOD, OPEN, Table
from inheritune.results import (
    ComparedLoss,
    Control,
    Outcome,
    ReferenceSummary,
    Round,
    RunState,
    TrainedSummary,
    UntunedReference,
)

COLOURS_OF = {"matched": GOOD, "undecided": OPEN, "behind": BAD}
"""The colour of each decision."""


def verdict(run: RunState) -> str:
    """The result of a run: what its gap decides, at which depth, how far ahead of the random control, and what would
    match.

    Where the reference itself gains from the same training, the first sentence says so: then a target may be as good as
    the reference without being good.
    """
    reference, result = run.reference, run.result
    if reference is None:
        return "Not finished: the reference is not judged yet."
    if result is None:
        done = many(len(run.rounds), "round") if run.rounds else "no round"
        return (
            f"Not finished: the reference, {many(reference.layers, 'block')}, has validation loss"
            f" {reference.val_loss:.4f}; {done} judged so far."
        )
    share = f"{result.parameters / reference.parameters:.0%} of its parameters"
    parts = f"{result.layers} of the reference's {reference.layers} blocks and {share}"
    gap = with_error(result.gap, result.gap_se, sign=True)
    losses = f"validation loss {result.val_loss:.4f}, the reference {reference.val_loss:.4f} (gap {gap})."
    if result.decision == "behind":
        deepest = max(one.layers for one in run.rounds)
        text = f"Behind the reference up to {deepest} blocks: the best target, with {parts}, reaches {losses}"
    elif result.decision == "matched":
        within = f" within {run.tolerance:g} nats" if run.tolerance else ""
        text = f"Matched{within}: with {parts} the target reaches {losses}"
    else:
        text = f"Undecided: with {parts} the target reaches {losses} {_undecided(result, run.tolerance)}"
    gained = next((one for one in run.controls if one.name != "random" and (one.gap_upper or 0) < 0), None)
    if gained is not None:
        text = under_trained(gained) + text
    if reference.untuned is not None:
        text = _tuned(reference, reference.untuned, result) + text
    if not run.finished:
        text = "Not finished. So far: " + text[0].lower() + text[1:]
    advice = [tokens_sentence(result, reference), blocks_sentence(run)]
    compared = [one for one in run.controls if one.over_result is not None and one is not gained]
    return " ".join(filter(None, [text, *advice, *map(_control_sentence, compared)]))


def under_trained(continued: ComparedLoss) -> str:
    """What a verdict begins with where the reference itself, trained further, is ahead of the reference."""
    return (
        f"The reference is under-trained on this text: the same training brings it to {continued.val_loss:.4f} (gap"
        f" {with_error(continued.gap, continued.gap_se, sign=True)}), so its loss is easy to reach. "
    )


def _tuned(reference: ReferenceSummary, untuned: UntunedReference, result: Outcome) -> str:
    """What a verdict begins with where the reference was tuned."""
    if reference.tuned_step == 0:
        return "Tuning the reference on this text gained nothing, so it was taken as it is. "
    assert untuned.gap is not None
    assert result.over_untuned is not None
    gained = with_error(untuned.gap, untuned.gap_se)
    over = with_error(result.over_untuned, result.over_untuned_se, sign=True)
    return (
        f"The reference was tuned on this text first, which gained {gained}: losses are compared with the tuned one."
        f" Against the reference as it was ({untuned.val_loss:.4f}) the target is at {over}. "
    )


def _undecided(model: ComparedLoss, tolerance: float) -> str:
    """What an undecided gap lacks, in a sentence."""
    if model.gap_upper is None:
        return "The validation text is a single stretch, so the gap has no error: give more validation text."
    text = f"The gap may be up to {model.gap_upper:+.4f}, which is more than {tolerance:g}"
    if model.tokens_to_decide is None:
        return f"{text}; it is so close to {tolerance:g} that more validation text would hardly decide."
    return f"{text}; about {short(model.tokens_to_decide)} tokens of validation text would decide."


def _control_sentence(control: Control) -> str:
    """The sentence of a control that was compared with the result."""
    assert control.over_result is not None
    if control.name == "random":
        low, high = control.over_result_interval or (-math.inf, math.inf)
        word = "worse" if low > 0 else "better" if high < 0 else "not told apart"
        over = with_error(control.over_result, control.over_result_se, sign=True)
        return (
            f"The same small model from random weights, on the same tokens, is {word}: {control.val_loss:.4f},"
            f" {over} against the inherited one. {random_sentence(control)}"
        ).rstrip()
    gap = with_error(control.gap, control.gap_se, sign=True)
    return f"The reference itself, trained on the same tokens, would reach {control.val_loss:.4f} (gap {gap})."


def verdict_colour(run: RunState) -> str:
    """The colour of a run's verdict."""
    return OPEN if run.result is None else COLOURS_OF[run.result.decision]


def loss_note(run: RunState, length: int | None = None) -> str:
    """What the losses and gaps of a table are, in sentences."""
    of = "" if length is None else f" of {length:,} tokens"
    return (
        f"Validation loss in nats a token over {run.validation_sequences or 0:,} sequences{of}"
        f" ({many(run.validation_documents or 0, 'document')}), none of them from our training text; ± is one standard"
        " error, for which documents, or long stretches of few documents, are taken as independent. The gap is the"
        f" model's loss less the reference's on the same text. Matched: its upper bound (one-sided, 95 %) is at most"
        f" {run.tolerance:g}. Undecided: only the gap itself is. FLOPs are those of training."
    )


def entries(run: RunState) -> list[tuple[str, ReferenceSummary | TrainedSummary]]:
    """Reference, rounds and controls, as far as they are judged, with their names."""
    return [
        *([("reference", run.reference)] if run.reference else []),
        *((_round_name(number, one), one) for number, one in enumerate(run.rounds, 1)),
        *((f"control: {one.name}", one) for one in run.controls),
    ]


def _round_name(number: int, one: Round) -> str:
    return f"round {number}" if one.planned_steps is None else f"round {number}, ended early"


_COLUMNS = ("model", "blocks", "params", "tokens", "FLOPs", "teacher FLOPs", "val. loss", "gap", "decision", "tokens/s")
_WIDE = {"FLOPs", "tokens/s", "teacher FLOPs"}  # columns that a terminal of 80 characters has no room for


def table(run: RunState, narrow: bool = False) -> Table:
    """Reference, rounds, controls. Tokens and FLOPs are those of a model's whole training, with the earlier rounds that
    it resumed from. `narrow` is without what a terminal has no room for.
    """
    columns = [name for name in _COLUMNS if not (narrow and name in _WIDE)]
    return Table.of(columns, [model_row(name, one, narrow) for name, one in entries(run)])


def model_row(name: str, model: ReferenceSummary | TrainedSummary, narrow: bool = False) -> dict[str, str]:
    """The cells of a model in the table of `table`."""
    row = {"model": name, "blocks": str(model.layers), "params": short(model.parameters)}
    row["val. loss"] = with_error(model.val_loss, None if narrow else model.val_loss_se)
    trained = model if isinstance(model, TrainedSummary) else None
    tokens, flops = (trained.all_tokens, trained.all_flops) if trained else (model.tokens, model.flops)
    if tokens is not None and flops is not None:
        row |= {"tokens": short(tokens), "FLOPs": f"{flops:.2g}"}
    if model.tokens_per_second is not None:
        row["tokens/s"] = f"{model.tokens_per_second:,.0f}"
    if isinstance(model, TrainedSummary):
        row["gap"] = with_error(model.gap, model.gap_se, sign=True)
        row["decision"] = model.decision
        if (teacher := model.all_teacher_flops) is not None:
            teacher += (model.teacher_flops_before or 0) + (model.teacher_head_flops_before or 0)
            shared = " (shared)" if model.teacher_outputs == "stored" else ""  # computed once for all models
            row["teacher FLOPs"] = f"{teacher:.2g}{shared}"
    return row
