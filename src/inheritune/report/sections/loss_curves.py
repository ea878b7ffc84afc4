"""Validation losses on the way, over tokens, steps and FLOPs."""

from collections.abc import Sequence
from typing import Any

from inheritune.report.comparison import ComparisonFolder
from inheritune.report.curves import Curve, Curves
from inheritune.report.figures import COLOURS, INK, Picture, draw, dress, show_values, stretch
from inheritune.report.page import Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown

PLACE = 30

_AXES = {"tokens": "tokens trained on", "steps": "optimizer steps", "flops": "training FLOPs"}
_SHOWN = {"tokens": "tokens", "steps": "steps", "flops": "FLOPs"}
_STYLES = ("-", "--", "-.", ":")


def section(shown: Shown) -> Section:
    """The curves of all runs and arms on common axes, of which the reader chooses one."""
    title, curves = "Validation loss during training", shown.curves
    runs, compared = shown.every(RunFolder), shown.every(ComparisonFolder)
    if not (runs or compared):
        return Section(title)
    drawn = [(words, draw_curves(curves, axis)) for axis, words in _SHOWN.items()]
    by_axis = [(words, picture) for words, picture in drawn if picture is not None]
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
    return Section(title, missing=curves.missing(), by_axis=by_axis, notes=[note])


def draw_curves(shown: Curves, axis: str) -> Picture | None:
    """The curves over one axis; None where there is none."""
    curves = shown.over(axis)
    if not curves:
        return None
    size = (5, 3.4 + 0.2 * (len(curves) + len(shown.levels)))
    says = f"validation loss during training, by {_SHOWN[axis]}"
    return draw(
        f"loss-by-{axis}", says, lambda figure, axes: _fill(figure, axes, curves, shown.levels, axis), size, font=10.5
    )


def _fill(figure: Any, axes: Any, curves: Sequence[Curve], levels: dict[str, float], axis: str) -> None:
    from matplotlib.ticker import FuncFormatter

    handles, others = [], [curve for curve in curves if curve.role != "reference"]
    for place, (name, level) in enumerate(levels.items()):
        style = _STYLES[1 + place % 3]
        handles.append(axes.axhline(level, color=INK, linestyle=style, linewidth=1.2, label=name))
    for curve in curves:
        number = others.index(curve) if curve in others else None
        xs, ys = [point[axis] for point in curve.points], [point["val_loss"] for point in curve.points]
        handles += axes.plot(
            xs, ys, label=curve.name, color=INK if number is None else COLOURS[number % len(COLOURS)],
            linestyle=":" if curve.role == "control" else _STYLES[(number or 0) // len(COLOURS) % 3],
            linewidth=1.4 if number is None else 2,
            marker="o" if len(xs) == 1 else "",
        )  # fmt: skip
    losses = [point["val_loss"] for curve in curves for point in curve.points]
    stretch(axes, [*levels.values(), *losses])  # untrained it begins far above
    for curve in curves:
        texts = [
            f"{curve.name}\n{_amount(point[axis])} {_SHOWN[axis]}: {point['val_loss']:.4f}" for point in curve.points
        ]
        xs, ys = [point[axis] for point in curve.points], [point["val_loss"] for point in curve.points]
        show_values(axes, xs, ys, texts, len(curves))
    axes.set_xlabel(_AXES[axis])
    axes.set_ylabel("validation loss (nats a token)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value)))
    dress(axes)
    names = [handle.get_label() for handle in handles]
    figure.legend(handles, names, loc="outside upper left", frameon=False, labelcolor=INK, fontsize=9.5)


def _amount(value: float) -> str:
    if value >= 1e13:
        return f"{value:.3g}"
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:.4g}{letter}"
    return f"{value:.4g}"
