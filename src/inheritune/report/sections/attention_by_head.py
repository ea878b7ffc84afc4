"""Heat maps of heads x blocks."""

from inheritune.report.analysis import AnalysisFolder
from inheritune.report.heat_maps import draw_heads
from inheritune.report.measures import HEAD_MEASURES
from inheritune.report.page import Panel, Section
from inheritune.report.shown import Shown
from inheritune.results import AnalyzedModel

PLACE = 45


def section(shown: Shown) -> Section:
    """Return a map for each measure and model, if the page shows one analysis only."""
    title = "Attention by head"
    if (folder := shown.only(AnalysisFolder)) is None:
        return Section(title)
    models = shown.models
    analysis = folder.analysis.model_copy(update={"models": models})
    rows = [
        [
            Panel(title_of(measure.title, number, models), measure.about, picture)
            for number in range(len(models))
            if (picture := draw_heads(measure, analysis, number))
        ]
        for measure in HEAD_MEASURES
    ]
    if all(len(row) < 2 for row in rows):  # a single model's in one row
        rows = [[panel for row in rows for panel in row]]
    about = "A column for each block, a row for each head; an empty place has no such head or no attention weights."
    if len(analysis.tau) > 1:
        about += f" Rank at tau {analysis.tau[0]:g}; analysis.json has the others."
    return Section(title, about, rows=rows)


def title_of(title: str, number: int, models: list[AnalyzedModel]) -> str:
    """A panel's title, with the name of model `number` where there are several."""
    return f"{title}: {models[number].name}" if len(models) > 1 else title
