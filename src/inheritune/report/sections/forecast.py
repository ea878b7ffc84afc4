"""How the trainings of a run go on: the final loss of those that are not done, the tokens to match of all."""

from collections.abc import Sequence

from inheritune.report.advice import tokens_to_match
from inheritune.report.curves import final_level
from inheritune.report.forecast import LONGEST, forecast_of
from inheritune.report.notation import about
from inheritune.report.page import Section, Table
from inheritune.report.run_folder import RunFolder, TrainingFolder
from inheritune.report.shown import Shown, prefix

PLACE = 31

_COLUMNS = ("training", "done", "loss now", "final loss", "tokens to match")


def section(shown: Shown) -> Section:
    """Return a row for each training of which the curve tells how it goes on."""
    rows = [
        {"training": prefix(label) + one.name} | cells
        for label, run in shown.every(RunFolder)
        for one in run.trainings
        if (cells := _cells(run, one))
    ]
    if not rows:
        return Section("Forecast")
    notes = [
        "In brackets are 80 % intervals. The final loss is on the sequences of the curves. Tokens to match: how long a"
        " training of the same kind would have to be to match the reference, its whole schedule stretched. This assumes"
        f" fresh text, or text that is seen as often as now, and looks ahead to {LONGEST:g} times the length."
    ]
    return Section("Forecast", tables=[("", Table.of(_COLUMNS, rows))], notes=notes)


def _cells(run: RunFolder, training: TrainingFolder) -> dict[str, str]:
    """The cells of a training, without its name; empty where its curve tells nothing."""
    if training.judged is not None:
        return _judged(run, training)
    made, points = forecast_of(training.folder, is_done=False), training.points(None)
    if made is None or not points:
        return {}
    final, now = made.final(), points[-1]
    tokens = now["tokens"] / now["steps"] * len(made.rates)
    cells = {
        "done": f"{now['tokens'] / tokens:.0%}",
        "loss now": f"{now['val_loss']:.4f}",
        "final loss": f"{final.middle:.3f} ({final.low:.3f} to {final.high:.3f})",
    }
    levels = list(final_level(run.folder / "reference", "").values())
    if training.role == "reference" or not levels:
        return cells
    times = made.times_to_reach(levels[0] + run.state.tolerance)
    found = [None if one is None else one * tokens for one in (times.middle, times.low, times.high)]
    return cells | {"tokens to match": "in this training" if times.middle == 1 else _range(found, LONGEST * tokens)}


def _judged(run: RunFolder, training: TrainingFolder) -> dict[str, str]:
    """The same of a training that is done and judged."""
    models = [*run.state.rounds, *run.state.controls]
    model = next((one for one in models if one.model == training.model), None)
    found = model and tokens_to_match(training.folder, model, model.tokens, run.state.tolerance)
    if not found:
        return {}
    return {"done": "100%", "tokens to match": _range([found.middle, found.low, found.high], found.most)}


def _range(tokens: Sequence[float | None], most: float) -> str:
    """A forecast of tokens with its interval; `tokens` are the middle, the lowest and the highest."""
    middle, low, high = (f"more than {about(most)}" if one is None else about(one) for one in tokens)
    return middle if low == middle else f"{middle} ({low} to {high})"
