"""Charts over the blocks: a line for each model, standard errors as bars, lazy layers ringed.

Models are overlaid by the number of the block, also where they differ in depth. Relative depth would line up the ends
of a reference of 30 blocks and its target of 15, but no block of one with a block of the other. The number does so for
a target that has the first blocks, and it is what tables, heat maps and selections call a block.
"""

from dataclasses import dataclass
from typing import Any

from inheritune.report.analysis_measures import Curve, Figure, Measure, written
from inheritune.report.figures import COLOURS, INK, Picture, count_along, draw, dress, show_values, stretch

_DASHES = ("-", "--", ":", "-.")


def draw_measure(measure: Measure, models: list[dict[str, Any]], labels: list[str]) -> Picture | None:
    """The chart of all models; None where nothing of it was measured."""
    lines = _lines(measure, models, labels)
    if not lines:
        return None
    says = f"{measure.title}: {', '.join(labels)}"
    rows = sum(bool(line.label) for line in lines)
    size = (5, 3.2 + 0.2 * rows)
    return draw(measure.name, says, lambda figure, axes: _fill(figure, axes, measure, lines), size, font=10.5)


@dataclass(frozen=True)
class _Line:
    label: str
    model: dict[str, Any]
    curve: Curve
    colour: str
    dashes: str


def _lines(measure: Measure, models: list[dict[str, Any]], labels: list[str]) -> list[_Line]:
    """A model has a colour and a curve its dashes; curves of a single model are told apart by colour."""
    found = []
    for place, (model, label) in enumerate(zip(models, labels, strict=True)):
        for number, curve in enumerate(measure.curves):
            if any(curve.read(block) for block in model["blocks"]):
                parts = (label if len(models) > 1 else "", curve.label)
                colour, dashes = (place, number) if len(models) > 1 else (number, 0)
                found.append(
                    _Line(
                        ", ".join(part for part in parts if part), model, curve,
                        COLOURS[colour % len(COLOURS)], _DASHES[dashes % len(_DASHES)],
                    )
                )  # fmt: skip
    return found


def _fill(figure: Any, axes: Any, measure: Measure, lines: list[_Line]) -> None:
    handles = [_draw(axes, line) for line in lines]
    for number, (line, handle) in enumerate(zip(lines, handles, strict=True)):
        handle.set_gid(f"line-{number}")
        if line.curve == measure.ringed:
            _ring(axes, line, f"lazy-{number}")
    values = [found["mean"] for line in lines for block in line.model["blocks"] if (found := line.curve.read(block))]
    axes.set_xlim(-0.5, max(line.model["layers"] for line in lines) - 0.5)
    count_along(axes.xaxis)
    axes.set_xlabel("block")
    axes.set_ylabel(measure.axis)
    stretch(axes, values)
    for line in lines:
        _show(axes, line, len(lines))
    if min(values) < 0:
        axes.axhline(0, color=INK, linewidth=0.8)
    dress(axes)
    if any(line.label for line in lines):
        names = [line.label for line in lines]
        figure.legend(handles, names, loc="outside upper left", frameon=False, labelcolor=INK, fontsize=9.5)


def _draw(axes: Any, line: _Line) -> Any:
    """One curve; a block without a figure is a gap in it, no zero."""
    blocks = line.model["blocks"]
    found = [line.curve.read(block) for block in blocks]
    container = axes.errorbar(
        [block["block"] for block in blocks],
        [_or_gap(figure, "mean") for figure in found],
        yerr=[_or_gap(figure, "se") for figure in found],
        color=line.colour, linestyle=line.dashes, linewidth=1.6, elinewidth=1,
        marker="o", markersize=4 if len(blocks) <= 40 else 2.5,
    )  # fmt: skip
    return container.lines[0]


def _show(axes: Any, line: _Line, lines: int) -> None:
    """Values in words at the points."""
    known = [(block["block"], found) for block in line.model["blocks"] if (found := line.curve.read(block))]
    texts = [
        "\n".join(filter(None, [line.label, f"block {block}: {written(found, line.curve.form)}"]))
        for block, found in known
    ]
    show_values(axes, [block for block, _ in known], [found["mean"] for _, found in known], texts, lines)


def _or_gap(figure: Figure | None, key: str) -> float:
    return float("nan") if figure is None or figure[key] is None else figure[key]


def _ring(axes: Any, line: _Line, name: str) -> None:
    lazy = line.model["lazy_layers"] or []
    points = [
        (block["block"], found["mean"])
        for block in line.model["blocks"]
        if block["block"] in lazy and (found := line.curve.read(block))
    ]
    axes.plot(
        [block for block, _ in points], [mean for _, mean in points],
        "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4, gid=name,
    )  # fmt: skip
