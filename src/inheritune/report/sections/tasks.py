"""Reference and result of runs on text and tasks."""

from inheritune.report.page import Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown, prefix
from inheritune.report.tasks import harness_note, start_note, task_table
from inheritune.results import EvaluationResult

PLACE = 85


def section(shown: Shown) -> Section:
    """The models of all runs side by side, each name behind its run's label."""
    results = [(label, run.tasks) for label, run in shown.every(RunFolder) if run.tasks is not None]
    models = [
        model.model_copy(update={"name": prefix(label) + model.name}) for label, one in results for model in one.models
    ]
    published = list({row.name: row for _, one in results for row in one.published}.values())
    notes = [" ".join(filter(None, [label and f"{label}.", _about(one), harness_note(one)])) for label, one in results]
    notes += [note for note in [start_note(models)] if note]
    notes += [f"Published figures of {row.name}: {row.source}." for row in published]
    table = task_table(models, published)
    if not table.rows:
        return Section("Tasks", notes=notes)
    return Section("Tasks", "± is one standard error.", tables=[("", table)], notes=notes)


def _about(result: EvaluationResult) -> str:
    text = result.text
    if text is None:
        return ""
    count = "" if text.sequences is None else f"{text.sequences:,} "
    return f"Text: {count}sequences of {text.sequence_length:,} tokens from {text.source}."
