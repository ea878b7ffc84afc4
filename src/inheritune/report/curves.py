"""The loss curves of a run, drawn from its metrics files."""

import io
import math
from pathlib import Path
from typing import Any

from inheritune.runlog import read_json, read_metrics

_INK = "#7a7b7c"  # axes and text; the page replaces it by the reader's own text colour
_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
)  # Okabe and Ito, told apart by all
_STYLES = ("-", "--", "-.", ":")


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


def draw(curves: list[dict[str, Any]], level: float, axis: str, label: str) -> tuple[str, bytes]:
    """The figure as SVG text (axes in the reader's text colour) and as PNG bytes (on white).

    `level` is where the reference's line is drawn, `axis` the curves' key of what is laid off to the right.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "inheritune",
        "font.family": "sans-serif",
        "font.size": 11,
    }
    with matplotlib.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(8, 4.4), layout="constrained")
        _fill(axes, curves, level, axis)
        axes.set_xlabel(label)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        figure.savefig(png, format="png", dpi=150, facecolor="white")
        pyplot.close(figure)
    text = svg.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor"), png.getvalue()


def _fill(axes: Any, curves: list[dict[str, Any]], level: float, axis: str) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.axhline(level, color=_INK, linestyle="--", linewidth=1.2, label="reference, final")
    for number, curve in enumerate(curves):
        reference = curve["name"] == "reference"
        axes.plot(
            curve[axis], curve["val_loss"], label=curve["name"],
            color=_INK if reference else _COLOURS[(number - 1) % len(_COLOURS)],
            linestyle=":" if curve["name"].startswith("control") else _STYLES[(number - 1) // len(_COLOURS) % 4],
            linewidth=1.4 if reference else 2,
        )  # fmt: skip
    lowest = min([level, *(min(curve["val_loss"]) for curve in curves)])
    highest = max([level, *(max(curve["val_loss"]) for curve in curves)])
    if highest > 2 * lowest > 0:  # an untrained target begins far above where it ends
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(
            FuncFormatter(lambda value, _: f"{value:g}" if math.log10(highest / lowest) < 1 else "")
        )
    axes.set_ylabel("validation loss (nats a token)")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _amount(value)))
    axes.tick_params(colors=_INK, which="both")
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)
    axes.legend(frameon=False, labelcolor=_INK)


def _amount(value: float) -> str:
    if value >= 1e13:
        return f"{value:.2g}"
    for factor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"
