"""Heat maps: heads x blocks, angular distance by start and number of blocks, attention matrices.

A map for each model, side by side; all models share a colour scale, so that one colour means one number.
"""

import math
from collections.abc import Sequence
from typing import Any

from inheritune.report.figures import INK, Picture, count_along, draw, dress
from inheritune.report.measures import HeadMeasure
from inheritune.results import Analysis, AnalyzedModel

_COLLAPSED = "#e8590c"  # not on the scale, which goes from blue to yellow
_SCALE = "viridis"
_SHOWN = 256
"""Rows of an attention matrix that the page shows at most, so that long sequences don't make it heavy."""


def draw_heads(measure: HeadMeasure, analysis: Analysis, number: int, label: str) -> Picture | None:
    """The map of model `number`: a column for each block, a row for each head; None where it has no attention."""
    import numpy as np

    grids = [_heads(measure, analysis, model) for model in analysis.models]
    grid = grids[number]
    if grid is None:
        return None
    norm, under = _norm(measure, analysis, np.nanmax([np.nanmax(one) for one in grids if one is not None]))

    def fill(figure: Any, axes: Any) -> None:
        _image(figure, axes, grid, norm, measure.axis, under)
        axes.set_xlabel("block")
        axes.set_ylabel("head")

    height = min(max(1.5 + 0.14 * len(grid), 2.3), 4.8)
    return draw(f"{measure.key}-{number}", f"{measure.title} by head and block: {label}", fill, (5, height), font=10.5)


def _heads(measure: HeadMeasure, analysis: Analysis, model: AnalyzedModel) -> Any:
    """(heads, blocks), not a number where a block has no attention or not that many heads; None without any."""
    import numpy as np

    columns = [block.attention.heads if block.attention else [] for block in model.blocks]
    if not any(columns):
        return None
    grid = np.full((max(map(len, columns)), len(columns)), np.nan)
    for place, heads in enumerate(columns):
        grid[: len(heads), place] = [measure.read(head, analysis.tau[0]).mean for head in heads]
    return grid


def _norm(measure: HeadMeasure, analysis: Analysis, highest: float) -> tuple[Any, str | None]:
    """The colour scale, and the colour of what lies below it."""
    from matplotlib.colors import LogNorm, Normalize

    if measure.key == "rank":  # 1 and 2 differ by as much as 30 and 60
        return LogNorm(analysis.collapsed_below, max(highest, 2 * analysis.collapsed_below)), _COLLAPSED
    if measure.key == "mass":
        return LogNorm(1, max(highest, 2)), None
    if measure.key == "sink":
        return Normalize(0, 1), None
    return Normalize(0, math.log(max(analysis.text.sequence_length, 2))), None  # uniform over the sequence


def draw_distances(models: Sequence[AnalyzedModel], number: int, label: str) -> Picture | None:
    """Angular distance across k blocks by the first of them; a dot at the least for each k. None where unmeasured."""
    import numpy as np
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

    def fill(figure: Any, axes: Any) -> None:
        extent = (-0.5, starts - 0.5, most + 0.5, least - 0.5)
        _image(figure, axes, grid, Normalize(0, highest or 1), "arccos / pi", None, extent)
        firsts = [np.nanargmin(grid[row.blocks - least]) for row in rows]
        axes.plot(firsts, [row.blocks for row in rows], "o", markersize=2.2, color="white", gid="least")
        axes.set_xlabel("first of the blocks")
        axes.set_ylabel("number of blocks")

    return draw(f"angular-distance-{number}", f"Angular distance: {label}", fill, (5, 3.8), font=10.5)


def draw_attention(matrix: Any, name: str, says: str) -> Picture:
    """One attention matrix (T, T): weights of each query's row over the keys, on a square-root scale from 0 to 1."""
    import numpy as np
    from matplotlib.colors import PowerNorm

    shown = np.asarray(matrix, dtype=np.float64)
    step = reduction(len(shown))
    if step > 1:
        whole = np.pad(shown, (0, -len(shown) % step))
        shown = whole.reshape(len(whole) // step, step, len(whole) // step, step).max(axis=(1, 3))
    end = len(shown) * step - 0.5
    future = np.triu(np.ones(shown.shape, bool), 1) & (shown == 0)

    def fill(figure: Any, axes: Any) -> None:
        extent = (-0.5, end, end, -0.5)
        _image(figure, axes, np.where(future, np.nan, shown), PowerNorm(0.5, 0, 1), "weight", None, extent)
        axes.set_aspect("equal")
        axes.set_xlabel("position attended to")
        axes.set_ylabel("position")

    return draw(name, says, fill, (5, 4.1), font=10.5, layout="compressed")


def reduction(length: int) -> int:
    """How many positions a pixel of an attention map stands for along each side. It shows their largest weight."""
    return math.ceil(length / _SHOWN)


def _image(figure: Any, axes: Any, grid: Any, norm: Any, label: str, under: str | None, extent: Any = None) -> None:
    """`grid` with a colour bar; what is not a number stays empty. An image, as a path for each cell is megabytes."""
    import matplotlib
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    colours = matplotlib.colormaps[_SCALE]
    if under:
        colours = colours.with_extremes(under=under)
    image = axes.imshow(grid, cmap=colours, norm=norm, aspect="auto", interpolation="none", extent=extent, gid="map")
    for axis in (axes.xaxis, axes.yaxis):
        count_along(axis)
    dress(axes)
    bar = figure.colorbar(image, ax=axes, label=label, extend="min" if under else "neither", pad=0.02)
    bar.solids.set_rasterized(True)  # 256 paths otherwise
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, which="both")
    bar.ax.yaxis.label.set_color(INK)
    if isinstance(norm, LogNorm):
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
