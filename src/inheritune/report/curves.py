"""The loss curves of a run, drawn from its metrics files."""

import math
from pathlib import Path
from typing import Any

from inheritune.report.figures import COLOURS, INK, Picture, draw, dress, stretch
from inheritune.runlog import read_json, read_metrics

_STYLES = ("-", "--", "-.", ":")
_MANY, _COLUMNS = 7, 3  # from so many curves on their names stand below, in columns


def collect_curves(folder: Path, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, training tokens and validation losses of each training of the run that has left metrics."""
    places = [("reference", folder / "reference")]
    places += [
        (f"round {number}: {found['layers']} blocks", (folder / found["model"]).parent)
        for number, found in enumerate(summary["rounds"], 1)
    ]
    places += [
        (f"control: {found['name']}, {found['layers']} blocks", (folder / found["model"]).parent)
        for found in summary["controls"]
    ]
    curves = []
    for name, place in places:
        points = [(r["tokens"], r["val_loss"]) for r in read_metrics(place / "metrics.jsonl") if "val_loss" in r]
        if points:
            curves.append({"name": name, "tokens": [p[0] for p in points], "val_loss": [p[1] for p in points]})
    return curves


def reference_level(folder: Path, sequences: int) -> float:
    """The reference's final loss on the sequences that the curves are taken on, so that curves and line compare."""
    losses: list[float] = read_json(folder / "reference" / "evaluation.json")["sequence_losses"][:sequences]
    return math.fsum(losses) / len(losses)


def draw_curves(
    curves: list[dict[str, Any]],
    level: float,
    axis: str = "tokens",
    label: str = "tokens trained on",
    name: str = "loss",
    until: float | None = None,
) -> Picture:
    """The curves over what is spent, their key `axis`, and `until` so much of it; `level` is where the reference's line
    is drawn.
    """
    rows = math.ceil((len(curves) + 1) / _COLUMNS) if len(curves) >= _MANY else 0

    def fill(figure: Any, axes: Any) -> None:
        _fill(axes, curves, level, axis)
        axes.set_xlabel(label)
        if until:
            axes.set_xlim(-0.02 * until, 1.02 * until)
        if rows:  # within the axes so many names would hide the curves
            figure.legend(loc="outside lower center", ncols=_COLUMNS, frameon=False, labelcolor=INK, fontsize=9)
        else:
            axes.legend(frameon=False, labelcolor=INK)

    return draw(name, "validation loss during training", fill, (8, 4.4 + 0.2 * rows))


def _fill(axes: Any, curves: list[dict[str, Any]], level: float, axis: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.axhline(level, color=INK, linestyle="--", linewidth=1.2, label="reference, final")
    others = [curve for curve in curves if curve["name"] != "reference"]
    for curve in curves:
        number = others.index(curve) if curve in others else None
        axes.plot(
            curve[axis], curve["val_loss"], label=curve["name"],
            color=INK if number is None else COLOURS[number % len(COLOURS)],
            linestyle=":" if curve["name"].startswith("control") else _STYLES[(number or 0) // len(COLOURS) % 4],
            linewidth=1.4 if number is None else 2,
        )  # fmt: skip
    stretch(axes, [level, *(loss for curve in curves for loss in curve["val_loss"])])  # untrained it begins far above
    axes.set_ylabel("validation loss (nats a token)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value)))
    dress(axes)


def _amount(value: float) -> str:
    if value >= 1e13:
        return f"{value:.2g}"
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"
