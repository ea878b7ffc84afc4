"""What each training of a run cost, and the whole run."""

from inheritune.report.page import Section, Table
from inheritune.report.run_folder import RunFolder
from inheritune.report.run_summary import entries
from inheritune.report.shown import Shown
from inheritune.results import TrainedSummary
from inheritune.runlog import duration

PLACE = 90

_COLUMNS = ("training", "tokens", "steps", "FLOPs", "teacher FLOPs", "time", "tokens/s")


def section(shown: Shown) -> Section:
    """Return a row for each training with its own cost, if the page shows one run only."""
    if (run := shown.only(RunFolder)) is None:
        return Section("Cost")
    state, rows, seconds, flops = run.state, [], 0.0, 0.0
    for name, one in entries(state):
        if one.flops is None or one.seconds is None:
            continue
        teacher = one.all_teacher_flops if isinstance(one, TrainedSummary) else None
        cells = (
            name, f"{one.tokens:,}", f"{one.steps:,}", f"{one.flops:.3g}", "" if teacher is None else f"{teacher:.3g}",
            duration(one.seconds), f"{one.tokens_per_second:,.0f}",
        )  # fmt: skip
        rows.append(dict(zip(_COLUMNS, cells, strict=True)))
        seconds, flops = seconds + one.seconds, flops + one.flops
    if not rows:
        return Section("Cost")
    rows.append({"training": "all trainings", "FLOPs": f"{flops:.3g}", "time": duration(seconds)})
    notes = ["The time is that of the steps alone."]
    if state.wall_seconds is not None and state.peak_memory_bytes is not None:
        notes.append(
            f"The whole run, with text, evaluations and checkpoints, took {duration(state.wall_seconds)} and at"
            f" most {state.peak_memory_bytes / 1e9:.1f} GB of memory."
        )
    return Section("Cost", tables=[("", Table.of(_COLUMNS, rows))], notes=notes)
