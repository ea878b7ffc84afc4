"""Models side by side on text and tasks: what `evaluate` and a run's tasks.json hold, as a table with its notes."""

from collections.abc import Iterable, Sequence

from inheritune.report.notation import with_error
from inheritune.report.page import Table
from inheritune.results import EvaluatedModel, EvaluationResult, PublishedRow, TaskScore

ONE_START = " (one start token)"
"""Ends the metric of a figure that was measured without the second start token that the harness counts as text."""

_ON_TEXT = (
    ("validation loss (nats a token)", "val_loss"),
    ("perplexity", "perplexity"),
    ("bits per byte", "bits_per_byte"),
)


def task_table(models: Sequence[EvaluatedModel], published: Sequence[PublishedRow] = ()) -> Table:
    """A row for each figure: what was measured on text, then the tasks; a column for each model.

    A cell has the value and its standard error; with a metric or a number of examples that differs from the row's,
    that too. Models of `published` were judged by others.
    """
    columns: list[EvaluatedModel | PublishedRow] = [*models, *published]
    header = ["task", *(one.name for one in models), *(f"{one.name} (published)" for one in published)]
    rows = []
    for title, key in _ON_TEXT:
        values = [(getattr(one, key, None), getattr(one, f"{key}_se", None)) for one in columns]
        cells = ["" if value is None else with_error(value, error) for value, error in values]
        if any(cells):
            rows.append([title, *cells, "", ""])
    for name in dict.fromkeys(name for one in columns for name in one.tasks):
        scores = [one.tasks.get(name) for one in columns]
        first = next(score for score in scores if score)
        rows.append([name, *(_cell(score, first) for score in scores), first.metric, _shots(first)])
    return Table([*header, "metric", "shots"], rows)


def harness_note(result: EvaluationResult) -> str:
    """The version of the harness and its limit; "" without tasks."""
    if result.harness is None:
        return ""
    limit = f", the first {result.harness.limit:,} examples of each task" if result.harness.limit else ""
    return f"Tasks: lm-evaluation-harness {result.harness.version}{limit}."


def start_note(models: Iterable[EvaluatedModel]) -> str:
    """What "one start token" means; "" where no figure has it."""
    if not any(score.metric.endswith(ONE_START) for model in models for score in model.tasks.values()):
        return ""
    return (
        "Where a model's tokenizer puts a start token before a text, lm-evaluation-harness puts a second one there and"
        " counts it as text. Compare the harness's figure with published ones; the figure with one start token is that"
        " of the text alone."
    )


def _shots(score: TaskScore) -> str:
    return "" if score.shots is None else str(score.shots)


def _cell(score: TaskScore | None, first: TaskScore) -> str:
    if score is None:
        return ""
    other = [score.metric] if score.metric != first.metric else []
    other += [f"{_shots(score)} shots"] if _shots(score) not in ("", _shots(first)) else []
    return with_error(score.value, score.se) + (f" ({', '.join(other)})" if other else "")
