"""Runs, and their reference, rounds and controls."""

from inheritune.redaction import without_folders
from inheritune.report.notation import with_error
from inheritune.report.page import Section, Table
from inheritune.report.run_folder import RunFolder
from inheritune.report.run_summary import loss_note, model_row, table
from inheritune.report.shown import Shown, prefix, stacked
from inheritune.runlog import duration

PLACE = 10

_COLUMNS = (
    "run", "reference", "its loss", "blocks", "params", "tokens", "FLOPs", "val. loss", "gap", "decision", "took",
    "memory",
)  # fmt: skip


def section(shown: Shown) -> Section:
    """The table of a run that is shown alone; of several a row each, then all their models."""
    runs = shown.every(RunFolder)
    if not runs:
        return Section("Runs")
    models = stacked([(label, table(run.state)) for label, run in runs])
    missing = [prefix(label) + sentence for label, run in runs for sentence in run.under_way]
    if shown.only(RunFolder) is not None:
        state, counted = runs[0][1].state, runs[0][1].counted
        if not models.rows:
            return Section("Rounds and controls", missing=missing)
        notes = [loss_note(state), *([] if counted is None else [counted])]
        return Section("Rounds and controls", missing=missing, tables=[("", models)], notes=notes)
    tables = [("", Table.of(_COLUMNS, [{"run": label} | _cells(run) for label, run in runs]))]
    if models.rows:
        tables.append(("Rounds and controls", models))
    return Section("Runs", missing=missing, tables=tables, notes=[_same_text(runs)] if len(runs) > 1 else [])


def _cells(run: RunFolder) -> dict[str, str]:
    """Cells of a run; the figures are its result's."""
    state, reference, best = run.state, run.state.reference, run.best
    if reference is None:
        return {}
    cells = {
        "reference": without_folders(reference.name),
        "its loss": with_error(reference.val_loss, reference.val_loss_se),
    }
    if best is None:
        return cells
    return model_row("", best) | cells | {
        "blocks": f"{best.layers} of {reference.layers}",
        "decision": best.decision + ("" if state.finished else ", so far"),
        "took": "" if state.wall_seconds is None else duration(state.wall_seconds),
        "memory": "" if state.peak_memory_bytes is None else f"{state.peak_memory_bytes / 1e9:.1f} GB",
    }  # fmt: skip


def _same_text(runs: list[tuple[str, RunFolder]]) -> str:
    """Whether the runs' losses compare, which the checksums of their validation shards show where they are known."""
    texts = {run.validation_text for _, run in runs}
    lengths = {run.recipe.sequence_length for _, run in runs}
    if "" in texts:
        return "Whether the runs were judged on the same text is not known; their losses compare only if they were."
    if len(texts) == 1 and len(lengths) == 1:
        return "All runs were judged on the same validation sequences."
    return "The runs were judged on different validation sequences: compare their gaps, not their losses."
