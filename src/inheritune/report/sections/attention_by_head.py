"""Heat maps of heads x blocks."""

from inheritune.report.analysis import AnalysisFolder
from inheritune.report.heat_maps import draw_heads
from inheritune.report.measures import HEAD_MEASURES
from inheritune.report.page import Panel, Section
from inheritune.report.shown import Shown

PLACE = 45


def section(shown: Shown) -> Section:
    """Of an analysis that is shown alone: a map for each measure and model."""
    title = "Attention by head"
    if (folder := shown.only(AnalysisFolder)) is None:
        return Section(title)
    analysis, (_, labels) = folder.analysis, shown.models
    rows = [
        [
            Panel(title_of(measure.title, label, labels), measure.about, picture)
            for number, label in enumerate(labels)
            if (picture := draw_heads(measure, analysis, number, label))
        ]
        for measure in HEAD_MEASURES
    ]
    if all(len(row) < 2 for row in rows):  # a single model's in one row
        rows = [[panel for row in rows for panel in row]]
    about = "A column for each block, a row for each head; an empty place has no such head or no attention weights."
    if len(analysis.tau) > 1:
        about += f" Rank at tau {analysis.tau[0]:g}; analysis.json has the others."
    return Section(title, about, rows=rows)


def title_of(title: str, label: str, labels: list[str]) -> str:
    """A panel's title, with the model's name where there are several."""
    return f"{title}: {label}" if len(labels) > 1 else title
