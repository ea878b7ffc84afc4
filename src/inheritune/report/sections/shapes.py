"""The shapes that were tried for a size or a speed."""

from typing import Any

from inheritune.report.figures import COLOURS, INK, Picture, draw, dress, show_values
from inheritune.report.notation import short
from inheritune.report.page import Panel, Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shapes import shape_notes, shape_table
from inheritune.report.shown import Shown
from inheritune.results import ShapeChoice

PLACE = 24


def section(shown: Shown) -> Section:
    """Return losses over parameters and the table, if the page shows one run only, whose shape was chosen."""
    run, title = shown.only(RunFolder), "Shapes"
    if run is None or run.shape is None:
        return Section(title)
    tables, notes = [("", shape_table(run.shape))], shape_notes(run.shape)
    if all(one.loss is None for one in run.shape.candidates):
        return Section(title, tables=tables, notes=notes)
    about = "Untrained. A ring marks shapes that no other one beats in parameters, speeds and loss at once."
    panel = Panel("Loss over parameters", about, _scatter(run.shape))
    return Section(title, rows=[[panel]], tables=tables, notes=notes)


def _scatter(choice: ShapeChoice) -> Picture:
    """The shapes as points, the chosen one filled in another colour, and the reference's loss as a line."""
    shapes = [one for one in choice.candidates if one.loss is not None]
    xs, ys = [one.parameters / 1e6 for one in shapes], [one.loss or 0.0 for one in shapes]
    best = choice.frontier

    def fill(_: Any, axes: Any) -> None:
        axes.plot(xs, ys, "o", color=COLOURS[0], gid="shapes")
        axes.plot(
            [xs[at] for at in best], [ys[at] for at in best], "o", markersize=11, markerfacecolor="none",
            markeredgecolor=INK, gid="frontier",
        )  # fmt: skip
        axes.plot([choice.best.parameters / 1e6], [choice.best.loss], "o", color=COLOURS[1], gid="chosen")
        axes.annotate(
            "chosen", (choice.best.parameters / 1e6, choice.best.loss), textcoords="offset points", xytext=(8, 4),
            color=INK,
        )  # fmt: skip
        if choice.reference is not None and choice.reference.loss is not None:
            axes.axhline(choice.reference.loss, color=INK, linestyle="--", linewidth=1.2)
            axes.annotate(
                "reference", (0.01, choice.reference.loss), xycoords=("axes fraction", "data"), color=INK,
                textcoords="offset points", xytext=(0, 4),
            )  # fmt: skip
        axes.set_xlabel("parameters (millions)")
        axes.set_ylabel("loss (nats a token)")
        texts = [f"{one.words}\n{short(one.parameters)} parameters\nloss {one.loss:.3f}" for one in shapes]
        show_values(axes, xs, ys, texts)
        dress(axes)

    return draw("shapes", "Losses of the shapes that were tried, over their parameters", fill, 3.4)
