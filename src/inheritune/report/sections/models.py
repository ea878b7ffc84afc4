"""The models of an analysis, and what its terms mean."""

from inheritune.report.analysis import AnalysisFolder, about_text, models_table
from inheritune.report.page import Section
from inheritune.report.shown import Shown

PLACE = 5


def section(shown: Shown) -> Section:
    """Return a row for each model, if the page shows one analysis only."""
    if (analysis := shown.only(AnalysisFolder)) is None:
        return Section("")
    return Section("", tables=[("", models_table(shown.models))], notes=[about_text(analysis.analysis)])
