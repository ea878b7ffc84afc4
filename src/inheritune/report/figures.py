"""What all figures have in common: one look, text that stays text, axes in the reader's own text colour."""

import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median
from typing import Any, Literal

from inheritune.redaction import visible, visible_text

INK = "#7a7b7c"  # axes and text; in the SVG it becomes the reader's own text colour
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito, told apart by all
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "inheritune",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.parse_math": False,  # names of models and files may hold dollars
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))  # so that equal figures are equal bytes
_TAG = re.compile(r"<[^<>]+>")  # in text and attributes both signs are escaped, so this finds the tags and no more
_NAMED = re.compile(r'(\bid="|href="#|url\(#)')
_USE = re.compile(r"<use ([^>]*?) style=\"[^\"]*\"/>")
_MOST_POINTS = 600
"""Points of a figure that show their values, so that long trainings don't make the page heavy."""


@dataclass(frozen=True)
class Picture:
    """One figure: `name` is that of its file and begins every id in the SVG, so that figures share a page."""

    name: str
    svg: str
    png: bytes


def draw(
    name: str, description: str, fill: Callable[[Any, Any], None], height: float,
    layout: Literal["constrained", "compressed"] = "constrained",
) -> Picture:  # fmt: skip
    """A figure, 5 inches wide and `height` inches high, that `fill(figure, axes)` draws into.

    A screen reader reads `description`. The SVG has axes in the reader's text colour, the PNG is on white. Points that
    `fill` gives to `show_values` show them in the SVG.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not os.environ.get("SOURCE_DATE_EPOCH", "0").isdecimal():  # which matplotlib does not read
        del os.environ["SOURCE_DATE_EPOCH"]
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a PNG shows a box there; the SVG has text
        figure = Figure(figsize=(5, height), layout=layout)
        axes = figure.subplots()
        fill(figure, axes)
        svg, png, points = _rendered(figure, axes)
    text = _for_page(visible_text(svg), name, visible(description))
    for gid in points:
        text = _with_values(text, f"{name}-{gid}", gid.texts)
    return Picture(name, text, png)


class _Values(str):
    """The id of a line of points, with the text of each."""

    texts: list[str]


def _rendered(figure: Any, axes: Any) -> tuple[str, bytes, list[_Values]]:
    """The SVG and the PNG of a figure, and the ids of its lines of points, which only the SVG has."""
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", dpi=150, transparent=True, metadata=_NO_METADATA)
    points = [(gid, line) for line in list(axes.lines) if isinstance(gid := line.get_gid(), _Values)]
    for _, line in points:
        line.remove()
    figure.set_layout_engine("none")  # so that both have the same layout
    figure.savefig(png, format="png", dpi=150, facecolor="white")
    return svg.getvalue(), png.getvalue(), [gid for gid, _ in points]


def show_values(axes: Any, xs: Sequence[float], ys: Sequence[float], texts: Sequence[str], curves: int = 1) -> None:
    """Let the page show `texts` beside the pointer or finger when it is at a point.

    `curves` is the number of curves of the figure: each has a share of the points, evenly spaced.
    """
    count, most = len(xs), max(2, _MOST_POINTS // max(curves, 1))
    chosen = range(count) if count <= most else [round(n * (count - 1) / (most - 1)) for n in range(most)]
    gid = _Values(f"values-{sum(isinstance(line.get_gid(), _Values) for line in axes.lines)}")
    gid.texts = [texts[n] for n in chosen]
    axes.plot(
        [xs[n] for n in chosen], [ys[n] for n in chosen], "o", markersize=9, markerfacecolor="none",
        markeredgecolor=INK, markeredgewidth=1.5, gid=gid, zorder=5, scalex=False, scaley=False,
    )  # fmt: skip


def _with_values(svg: str, group: str, texts: list[str]) -> str:
    """`svg` whose marks in `group` have their texts as titles, which the page hides until they are asked for."""
    begin = svg.index(f'<g id="{group}">')
    parts = _USE.split(svg[begin:], maxsplit=len(texts))  # text, attributes, text, attributes, ..., text
    marks = [
        f'{before}<use class="point" {attributes}><title>{escape(text)}</title></use>'
        for before, attributes, text in zip(parts[:-1:2], parts[1::2], texts, strict=True)
    ]
    return svg[:begin] + "".join(marks) + parts[-1]


def _for_page(svg: str, name: str, description: str) -> str:
    def tag(match: re.Match[str]) -> str:
        return _NAMED.sub(rf"\g<1>{name}-", match[0]).replace(INK, "currentColor")

    text = _TAG.sub(tag, svg[svg.index("<svg") :])
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def dress(axes: Any) -> None:
    """Axes and their text in the ink that becomes the reader's text colour; no box around the figure."""
    axes.tick_params(colors=INK, which="both")
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)


def stretch(axes: Any, values: Iterable[float]) -> None:
    """A logarithmic y axis where the values span more than a factor of 2; near zero a linear one where some are not
    positive and the largest is far above the rest.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, SymmetricalLogLocator

    known = list(values)
    lowest, highest = min(known), max(known)
    if highest > 2 * lowest > 0:
        axes.set_yscale("log")
        decades = math.log10(highest / lowest)
        if 1 <= decades < 3:  # numbers at the powers of ten alone would be too few
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if decades < 1 else ""))
    elif lowest <= 0 and (usual := median(map(abs, known))) and max(highest, -lowest) > 20 * usual:
        linear = 10.0 ** math.floor(math.log10(usual))
        axes.set_yscale("symlog", linthresh=linear)
        subs = (1, 2, 5) if max(highest, -lowest) < 1000 * linear else (1,)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=linear, subs=subs))
        axes.autoscale_view(scalex=False)  # margins by the new scale
    else:
        return
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def count_along(axis: Any) -> None:
    """Whole numbers along an axis that counts blocks, heads or positions."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=10, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
