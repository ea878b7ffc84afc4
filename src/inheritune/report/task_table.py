"""Models beside each other on text and tasks, as a table: what `evaluate` and a run's tasks.json hold."""

from pathlib import Path
from typing import Any

from inheritune.errors import InputError
from inheritune.report.notation import with_error
from inheritune.report.sections import Section
from inheritune.runlog import read_mapping

ONE_START = " (one start token)"
"""Ends the metric of a figure that was measured without the second start token that the harness counts as text."""

_FORMAT = 1
_ON_TEXT = (
    ("validation loss (nats a token)", "val_loss"),
    ("perplexity", "perplexity"),
    ("bits per byte", "bits_per_byte"),
)


def read_tasks(path: Path) -> dict[str, Any] | None:
    """What tasks.json holds; None where there is none. Raises InputError for another format, DamagedFile for damage."""
    if not path.is_file():
        return None
    found = read_mapping(path)
    if found.get("format") != _FORMAT:
        what = f"is of format {found.get('format')}, not {_FORMAT}"
        raise InputError(str(path), what, "delete it, and evaluate with this version")
    return read_mapping(path, "models", "harness", "published")


def task_table(models: list[dict[str, Any]], published: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each figure: what was measured on text, then the tasks; a column for each model.

    A cell has the value and its standard error; with a metric or a number of examples that differs from the row's,
    that too. Models of `published` were judged by others.
    """
    every = [*models, *published]
    header = ["task", *(one["name"] for one in models), *(f"{one['name']} (published)" for one in published)]
    header += ["metric", "shots"]
    rows = []
    for title, key in _ON_TEXT:
        cells = [_cell(one.get(key), one.get(f"{key}_se")) for one in every]
        if any(cells):
            rows.append([title, *cells, "", ""])
    names = list(dict.fromkeys(name for one in every for name in one.get("tasks") or {}))
    for name in names:
        scores = [(one.get("tasks") or {}).get(name) for one in every]
        first = next(score for score in scores if score)
        rows.append([name, *(_score(score, first) for score in scores), first["metric"], _shots(first)])
    return header, rows


def start_note(models: list[dict[str, Any]]) -> str:
    """What a figure with one start token is; "" where there is none."""
    metrics = [one["metric"] for model in models for one in (model.get("tasks") or {}).values()]
    if not any(metric.endswith(ONE_START) for metric in metrics):
        return ""
    return (
        "Where a model's tokenizer puts a start token before a text, lm-evaluation-harness puts a second one there and"
        " counts it as text. Compare the harness's figure with published ones; the figure with one start token is that"
        " of the text alone."
    )


def _cell(value: float | None, error: float | None) -> str:
    return "" if value is None else with_error(value, error)


def _shots(score: dict[str, Any]) -> str:
    return "" if score.get("shots") is None else str(score["shots"])


def _score(score: dict[str, Any] | None, first: dict[str, Any]) -> str:
    if not score:
        return ""
    other = [score["metric"]] if score["metric"] != first["metric"] else []
    other += [f"{_shots(score)} shots"] if _shots(score) not in ("", _shots(first)) else []
    return with_error(score["value"], score.get("se")) + (f" ({', '.join(other)})" if other else "")


def task_section(found: list[tuple[str, dict[str, Any]]]) -> Section:
    """Tasks of one or several files, each with a label that its models' names begin with ('' for none)."""
    models = [
        one | {"name": f"{label}: {one['name']}" if label else one["name"]}
        for label, facts in found
        for one in facts["models"]
    ]
    published: dict[str, dict[str, Any]] = {}
    for _, facts in found:
        published |= {one["name"]: one for one in facts.get("published") or []}
    notes = []
    for label, facts in found:
        said = []
        text, harness = facts.get("text"), facts.get("harness")
        if text:
            said.append(
                f"Text: {text['sequences']:,} sequences of {text['sequence_length']:,} tokens from {text['source']}."
            )
        if harness:
            limit = f", the first {harness['limit']:,} examples of each task" if harness.get("limit") else ""
            said.append(f"Tasks: lm-evaluation-harness {harness['version']}{limit}.")
        if said:
            notes.append(" ".join([f"{label}." if label else "", *said]).strip())
    if start_note(models):
        notes.append(start_note(models))
    notes += [f"Published figures of {one['name']}: {one['source']}." for one in published.values()]
    header, rows = task_table(models, list(published.values()))
    return Section(
        "Tasks", "± is one standard error." if rows else "", tables=[("", header, rows)] if rows else [], notes=notes
    )
