"""Charts over the blocks: a line for each model, standard errors as bars, lazy layers ringed.

Models are overlaid by the number of the block, also where they differ in depth. Relative depth would line up the ends
of a reference of 30 blocks and its target of 15, but no block of one with a block of the other. The number does so for
a target that has the first blocks, and it is what tables, heat maps and selections call a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inheritune.report.figures import COLOURS, INK, Picture, count_along, draw, dress, show_values, stretch
from inheritune.report.measures import Curve, Measure, written
from inheritune.report.page import Panel
from inheritune.results import AnalyzedModel, Figure

_DASHES = ("-", "--", ":", "-.")


def line_panels(
    measures: Sequence[Measure], models: Sequence[AnalyzedModel], labels: Sequence[str]
) -> list[Panel]:  # fmt: skip
    """A chart with all models for each measure that any of them has."""
    drawn = [(measure, draw_measure(measure, models, labels)) for measure in measures]
    return [Panel(measure.title, measure.about, picture) for measure, picture in drawn if picture]


def draw_measure(measure: Measure, models: Sequence[AnalyzedModel], labels: Sequence[str]) -> Picture | None:
    """The chart of all models; None where nothing of it was measured."""
    lines = _lines(measure, models, labels)
    if not lines:
        return None
    says = f"{measure.title}: {', '.join(labels)}"
    size = (5, 3.2 + 0.2 * sum(bool(line.label) for line in lines))
    return draw(measure.name, says, lambda figure, axes: _fill(figure, axes, measure, lines), size, font=10.5)


@dataclass(frozen=True)
class _Line:
    label: str
    model: AnalyzedModel
    curve: Curve
    colour: str
    dashes: str

    @property
    def points(self) -> list[tuple[int, Figure]]:
        """Block and figure, where there is one."""
        pairs = [(block.block, self.curve.read(block)) for block in self.model.blocks]
        return [(block, figure) for block, figure in pairs if figure is not None]


def _lines(measure: Measure, models: Sequence[AnalyzedModel], labels: Sequence[str]) -> list[_Line]:
    """A model has a colour and a curve its dashes; curves of a single model are told apart by colour."""
    lines = []
    for place, (model, label) in enumerate(zip(models, labels, strict=True)):
        for number, curve in enumerate(measure.curves):
            colour, dashes = (place, number) if len(models) > 1 else (number, 0)
            name = ", ".join(filter(None, [label if len(models) > 1 else "", curve.label]))
            line = _Line(name, model, curve, COLOURS[colour % len(COLOURS)], _DASHES[dashes % len(_DASHES)])
            if line.points:
                lines.append(line)
    return lines


def _fill(figure: Any, axes: Any, measure: Measure, lines: Sequence[_Line]) -> None:
    handles = [_draw(axes, line) for line in lines]
    for number, (line, handle) in enumerate(zip(lines, handles, strict=True)):
        handle.set_gid(f"line-{number}")
        if line.curve == measure.ringed:
            _ring(axes, line, f"lazy-{number}")
    values = [point.mean for line in lines for _, point in line.points]
    axes.set_xlim(-0.5, max(line.model.layers for line in lines) - 0.5)
    count_along(axes.xaxis)
    axes.set_xlabel("block")
    axes.set_ylabel(measure.axis)
    stretch(axes, values)
    for line in lines:
        texts = [f"block {block}: {written(point, line.curve.form)}" for block, point in line.points]
        texts = [f"{line.label}\n{text}" if line.label else text for text in texts]
        xs, ys = [block for block, _ in line.points], [point.mean for _, point in line.points]
        show_values(axes, xs, ys, texts, len(lines))
    if min(values) < 0:
        axes.axhline(0, color=INK, linewidth=0.8)
    dress(axes)
    if any(line.label for line in lines):
        names = [line.label for line in lines]
        figure.legend(handles, names, loc="outside upper left", frameon=False, labelcolor=INK, fontsize=9.5)


def _draw(axes: Any, line: _Line) -> Any:
    """One curve; a block without a figure is a gap in it, not a zero."""
    gap, blocks, points = float("nan"), [block.block for block in line.model.blocks], dict(line.points)
    container = axes.errorbar(
        blocks,
        [points[block].mean if block in points else gap for block in blocks],
        yerr=[error if block in points and (error := points[block].se) is not None else gap for block in blocks],
        color=line.colour, linestyle=line.dashes, linewidth=1.6, elinewidth=1,
        marker="o", markersize=4 if len(blocks) <= 40 else 2.5,
    )  # fmt: skip
    return container.lines[0]


def _ring(axes: Any, line: _Line, name: str) -> None:
    points = [(block, point.mean) for block, point in line.points if block in (line.model.lazy_layers or [])]
    axes.plot(
        [block for block, _ in points], [mean for _, mean in points],
        "o", markersize=9, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4, gid=name,
    )  # fmt: skip
