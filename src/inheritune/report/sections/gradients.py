"""Gradients of the query and key projections."""

from inheritune.report.analysis import AnalysisFolder, what_is_missing
from inheritune.report.line_charts import measure_panels
from inheritune.report.measures import GRADIENTS
from inheritune.report.page import Section
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown

PLACE = 55


def section(shown: Shown) -> Section:
    """All models overlaid."""
    if shown.only(RunFolder) is not None:
        return Section("Gradients")
    lines, alone = measure_panels([GRADIENTS], shown.models), shown.only(AnalysisFolder) is not None
    about = "The theory expects that little gradient reaches the queries and keys of heads that have collapsed."
    missing = what_is_missing([GRADIENTS], shown.models) if alone else []
    return Section("Gradients", about if lines and alone else "", missing, [lines])
