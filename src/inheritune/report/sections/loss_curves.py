"""Validation losses during training, over tokens, steps and FLOPs."""

from typing import Any

from inheritune.report.comparison import ComparisonFolder
from inheritune.report.curves import Curve, Curves
from inheritune.report.figures import COLOURS, INK, Picture
from inheritune.report.line_charts import Line, draw_lines
from inheritune.report.notation import short
from inheritune.report.page import Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown

PLACE = 30

_AXES = {
    "tokens": ("tokens", "tokens trained on"),
    "steps": ("steps", "optimizer steps"),
    "flops": ("FLOPs", "training FLOPs"),
}
"""The unit and the label of each axis."""


def section(shown: Shown) -> Section:
    """The curves of all runs and arms on common axes, of which the reader chooses one."""
    title, curves = "Validation loss during training", shown.curves
    runs, compared = shown.every(RunFolder), shown.every(ComparisonFolder)
    if not (runs or compared):
        return Section(title)
    drawn = [(unit, draw_curves(curves, axis)) for axis, (unit, _) in _AXES.items()]
    if not curves.curves:
        return Section(title, missing=curves.missing())
    comparison = compared[0][1].comparison if len(shown.folders) == 1 and compared else None
    if comparison is not None:
        note = (
            f"Taken on the first {comparison.curve_sequences} validation sequences, means over the seeds, all stages of"
            f" an arm counted; the table judges on all {comparison.validation_sequences}."
        )
    elif compared:
        note = (
            "Taken on the first validation sequences of each, of arms as means over the seeds; the tables judge on all."
        )
    else:
        every = " or ".join(dict.fromkeys(str(run.recipe.every) for _, run in runs))
        count = " or ".join(dict.fromkeys(f"{run.curve_sequences:,}" for _, run in runs))
        note = (
            f"Taken every {every} on the first {count} validation sequences, as is the reference's line; the table"
            " judges on all of them. What earlier rounds cost is counted in a round that resumed from them."
        )
    by_axis = [(unit, picture) for unit, picture in drawn if picture is not None]
    return Section(title, missing=curves.missing(), by_axis=by_axis, notes=[note])


def draw_curves(curves: Curves, axis: str) -> Picture | None:
    """The curves over one axis; None where there is none."""
    from matplotlib.ticker import FuncFormatter

    known = curves.over(axis)
    if not known:
        return None
    unit, label = _AXES[axis]
    others = [curve for curve in known if curve.role != "reference"]
    lines = [
        Line(
            curve.name, [point[axis] for point in curve.points], [point["val_loss"] for point in curve.points],
            [f"{_amount(point[axis])} {unit}: {point['val_loss']:.4f}" for point in curve.points],
            _style(curve, others.index(curve) if curve in others else None),
        )
        for curve in known
    ]  # fmt: skip

    def write_amounts(axes: Any) -> None:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value)))

    title, y_label = f"validation loss during training, by {unit}", "validation loss (nats a token)"
    return draw_lines(f"loss-by-{axis}", title, (label, y_label), lines, write_amounts, curves.levels)


def _style(curve: Curve, number: int | None) -> dict[str, Any]:
    """How a curve is drawn; `number` is None for a reference."""
    return {
        "color": INK if number is None else COLOURS[number % len(COLOURS)],
        "linestyle": ":" if curve.role == "control" else ("-", "--", "-.")[(number or 0) // len(COLOURS) % 3],
        "linewidth": 1.4 if number is None else 2,
        "marker": "o" if len(curve.points) == 1 else "",
    }


def _amount(value: float) -> str:
    return f"{value:.3g}" if value >= 1e13 else short(value, 4)
