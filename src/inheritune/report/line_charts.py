"""Line charts: losses over what was spent, and measures over the blocks.

Models are overlaid by the number of the block, also where they differ in depth. Relative depth would line up the ends
of a reference of 30 blocks and its target of 15, but no block of one with a block of the other. The number does so for
a target that has the first blocks, and it is what tables, heat maps and selections call a block.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inheritune.report.figures import COLOURS, INK, Picture, count_along, draw, dress, show_values, stretch
from inheritune.report.measures import Curve, Measure, written
from inheritune.report.page import Panel
from inheritune.results import AnalyzedModel

DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Line:
    """A line of a chart, with a gap where a y is not a number. `style` is what matplotlib takes for a line."""

    label: str
    """In the legend; an empty one is not there."""
    xs: Sequence[float]
    ys: Sequence[float]
    texts: Sequence[str]
    """What the page shows at each point."""
    style: dict[str, Any]
    errors: Sequence[float] | None = None
    """Half of each error bar."""
    ringed: Sequence[int] | None = None
    """The points that have a ring, by their number."""


def draw_lines(
    name: str, title: str, axis_labels: tuple[str, str], lines: Sequence[Line], dress_x: Callable[[Any], None],
    levels: Mapping[str, float] | None = None,
) -> Picture:  # fmt: skip
    """A chart of lines. `dress_x` sets ticks and limits of the x axis; `levels` are lines across, by their label."""
    levels = levels or {}
    labels = [*levels, *(line.label for line in lines)]

    def fill(figure: Any, axes: Any) -> None:
        handles = [
            axes.axhline(level, color=INK, linestyle=("--", "-.", ":")[number % 3], linewidth=1.2)
            for number, level in enumerate(levels.values())
        ]
        for number, line in enumerate(lines):
            handles.append(axes.errorbar(line.xs, line.ys, yerr=line.errors, elinewidth=1, **line.style).lines[0])
            handles[-1].set_gid(f"line-{number}")
            if line.ringed is not None:
                axes.plot(
                    [line.xs[n] for n in line.ringed], [line.ys[n] for n in line.ringed], "o", markersize=9,
                    markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4, gid=f"lazy-{number}",
                )  # fmt: skip
        values = [*levels.values(), *(y for line in lines for y in line.ys if not math.isnan(y))]
        dress_x(axes)
        axes.set_xlabel(axis_labels[0])
        axes.set_ylabel(axis_labels[1])
        stretch(axes, values)
        for line in lines:
            known = [n for n, y in enumerate(line.ys) if not math.isnan(y)]
            texts = [f"{line.label}\n{line.texts[n]}".lstrip("\n") for n in known]
            show_values(axes, [line.xs[n] for n in known], [line.ys[n] for n in known], texts, len(lines))
        if min(values) < 0:
            axes.axhline(0, color=INK, linewidth=0.8)
        dress(axes)
        if any(labels):
            figure.legend(handles, labels, loc="outside upper left", frameon=False, labelcolor=INK, fontsize=9.5)

    return draw(name, title, fill, 3.2 + 0.2 * sum(map(bool, labels)))


def measure_panels(measures: Sequence[Measure], models: Sequence[AnalyzedModel]) -> list[Panel]:
    """A chart over the blocks with all models for each measure that any of them has."""
    drawn = [(measure, draw_measure(measure, models)) for measure in measures]
    return [Panel(measure.title, measure.about, picture) for measure, picture in drawn if picture]


def draw_measure(measure: Measure, models: Sequence[AnalyzedModel]) -> Picture | None:
    """The chart of all models, standard errors as bars, lazy layers ringed; None where nothing of it was measured.

    A model has a colour and a curve its dashes; curves of a single model are told apart by colour.
    """
    lines, several = [], len(models) > 1
    for place, model in enumerate(models):
        for number, curve in enumerate(measure.curves):
            colour, dashes = (place, number) if several else (number, 0)
            name = ", ".join(filter(None, [model.name if several else "", curve.label]))
            line = _block_line(name, model, curve, curve == measure.ringed, COLOURS[colour % len(COLOURS)], dashes)
            if not all(map(math.isnan, line.ys)):
                lines.append(line)
    if not lines:
        return None

    def count_blocks(axes: Any) -> None:
        axes.set_xlim(-0.5, max(len(line.xs) for line in lines) - 0.5)
        count_along(axes.xaxis)

    return draw_lines(
        measure.name,
        f"{measure.title}: {', '.join(model.name for model in models)}",
        ("block", measure.axis),
        lines,
        count_blocks,
    )


def _block_line(label: str, model: AnalyzedModel, curve: Curve, ringed: bool, colour: str, dashes: int) -> Line:
    figures = [curve.read(block) for block in model.blocks]
    lazy = [n for n, block in enumerate(model.blocks) if figures[n] and block.block in (model.lazy_layers or [])]
    return Line(
        label,
        [block.block for block in model.blocks],
        [math.nan if one is None else one.mean for one in figures],
        [f"block {block.block}: {written(one, curve.form)}" for block, one in zip(model.blocks, figures, strict=True)],
        {
            "color": colour, "linestyle": DASHES[dashes % len(DASHES)], "linewidth": 1.6, "marker": "o",
            "markersize": 4 if len(figures) <= 40 else 2.5,
        },
        [math.nan if one is None or one.se is None else one.se for one in figures],
        lazy if ringed else None,
    )  # fmt: skip
