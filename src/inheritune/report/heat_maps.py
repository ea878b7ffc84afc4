"""Heat maps: heads x blocks, angular distance by start and number of blocks, attention matrices.

A map for each model, side by side; all models share a colour scale, so that one colour means one number.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from inheritune.report.figures import INK, Picture, count_along, draw, dress
from inheritune.report.measures import HeadMeasure
from inheritune.results import Analysis, AnalyzedModel

_COLLAPSED = "#e8590c"  # not on the scale, which goes from blue to yellow
_SCALE = "viridis"
_SHOWN = 256
"""Rows of an attention matrix that the page shows at most, so that long sequences don't make it heavy."""


def draw_heads(measure: HeadMeasure, analysis: Analysis, number: int) -> Picture | None:
    """The map of model `number`: a column for each block, a row for each head; None where it has no attention."""
    grids = [_heads(measure, analysis, model) for model in analysis.models]
    grid = grids[number]
    if grid is None:
        return None
    norm = _norm(measure, analysis, np.nanmax([np.nanmax(one) for one in grids if one is not None]))
    name, title = f"{measure.key}-{number}", f"{measure.title} by head and block: {analysis.models[number].name}"
    under = _COLLAPSED if measure.key == "rank" else None
    height = min(max(1.5 + 0.14 * len(grid), 2.3), 4.8)
    return _draw_map(name, title, grid, norm, (measure.axis, "block", "head"), height, under=under)


def _heads(measure: HeadMeasure, analysis: Analysis, model: AnalyzedModel) -> Any:
    """(heads, blocks), not a number where a block has no attention or not that many heads; None without any."""
    columns = [block.attention.heads if block.attention else [] for block in model.blocks]
    if not any(columns):
        return None
    grid = np.full((max(map(len, columns)), len(columns)), np.nan)
    for place, heads in enumerate(columns):
        grid[: len(heads), place] = [measure.read(head, analysis.tau[0]).mean for head in heads]
    return grid


def _norm(measure: HeadMeasure, analysis: Analysis, highest: float) -> Any:
    """The colour scale of a measure."""
    from matplotlib.colors import LogNorm, Normalize

    if measure.key == "rank":  # 1 and 2 differ by as much as 30 and 60
        return LogNorm(analysis.collapsed_below, max(highest, 2 * analysis.collapsed_below))
    if measure.key == "mass":
        return LogNorm(1, max(highest, 2))
    if measure.key == "sink":
        return Normalize(0, 1)
    return Normalize(0, math.log(max(analysis.text.sequence_length, 2)))  # uniform over the sequence


def draw_distances(models: Sequence[AnalyzedModel], number: int) -> Picture | None:
    """Angular distance across k blocks by the first of them; a dot at the least for each k. None where unmeasured."""
    from matplotlib.colors import Normalize

    rows = models[number].angular_distance
    if not rows:
        return None
    highest = max(one.mean for model in models for row in model.angular_distance for one in row.distances)
    least, most = min(row.blocks for row in rows), max(row.blocks for row in rows)
    starts = max(len(row.distances) for row in rows)
    grid = np.full((most - least + 1, starts), np.nan)
    for row in rows:
        grid[row.blocks - least, : len(row.distances)] = [one.mean for one in row.distances]
    return _draw_map(
        f"angular-distance-{number}", f"Angular distance: {models[number].name}", grid, Normalize(0, highest or 1),
        ("arccos / pi", "first of the blocks", "number of blocks"), 3.8,
        extent=(-0.5, starts - 0.5, most + 0.5, least - 0.5),
        dots=[(int(np.nanargmin(grid[row.blocks - least])), row.blocks) for row in rows],
    )  # fmt: skip


def draw_attention(matrix: Any, name: str, title: str) -> Picture:
    """One attention matrix (T, T): weights of each query's row over the keys, on a square-root scale from 0 to 1."""
    from matplotlib.colors import PowerNorm

    shown = np.asarray(matrix, dtype=np.float64)
    step = reduction(len(shown))
    if step > 1:
        whole = np.pad(shown, (0, -len(shown) % step))
        shown = whole.reshape(len(whole) // step, step, len(whole) // step, step).max(axis=(1, 3))
    end = len(shown) * step - 0.5
    future = np.triu(np.ones(shown.shape, bool), 1) & (shown == 0)
    grid, labels = np.where(future, np.nan, shown), ("weight", "position attended to", "position")
    return _draw_map(
        name, title, grid, PowerNorm(0.5, 0, 1), labels, 4.1, extent=(-0.5, end, end, -0.5), layout="compressed"
    )


def reduction(length: int) -> int:
    """How many positions a side of a pixel of an attention map covers. The pixel shows their largest weight."""
    return math.ceil(length / _SHOWN)


def _draw_map(
    name: str, title: str, grid: Any, norm: Any, labels: tuple[str, str, str], height: float, *,
    under: str | None = None, extent: tuple[float, float, float, float] | None = None,
    dots: Sequence[tuple[int, int]] = (), layout: Literal["constrained", "compressed"] = "constrained",
) -> Picture:  # fmt: skip
    """`grid` with a colour bar; what is not a number stays empty. `labels` are those of the bar, the x and the y axis.

    `under` is the colour of what is below the scale; `dots` are white. The cells of a compressed layout are square.
    """

    def fill(figure: Any, axes: Any) -> None:
        import matplotlib
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        colours = matplotlib.colormaps[_SCALE]
        if under:
            colours = colours.with_extremes(under=under)
        aspect = "equal" if layout == "compressed" else "auto"
        # an image, as a path for each cell is megabytes
        image = axes.imshow(
            grid, cmap=colours, norm=norm, aspect=aspect, interpolation="none", extent=extent, gid="map"
        )
        for axis, label in ((axes.xaxis, labels[1]), (axes.yaxis, labels[2])):
            count_along(axis)
            axis.set_label_text(label)
        dress(axes)
        bar = figure.colorbar(image, ax=axes, label=labels[0], extend="min" if under else "neither", pad=0.02)
        bar.solids.set_rasterized(True)  # 256 paths otherwise
        bar.outline.set_visible(False)
        bar.ax.tick_params(colors=INK, which="both")
        bar.ax.yaxis.label.set_color(INK)
        if isinstance(norm, LogNorm):
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
        if dots:
            axes.plot(*zip(*dots, strict=True), "o", markersize=2.2, color="white", gid="least")

    return draw(name, title, fill, height, layout)
