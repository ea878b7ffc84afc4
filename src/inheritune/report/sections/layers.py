"""Every figure of every block."""

from inheritune.report.analysis import AnalysisFolder, layers_table
from inheritune.report.page import Section
from inheritune.report.shown import Shown

PLACE = 70


def section(shown: Shown) -> Section:
    """Return a table for each model, if the page shows one analysis only."""
    title, models = "Layer by layer", shown.models
    if (analysis := shown.only(AnalysisFolder)) is None:
        return Section(title)
    tables = [(model.name if len(models) > 1 else "", layers_table(model, analysis.analysis.tau)) for model in models]
    about = "Sink and entropy are means over the layer's heads. A dash: not measured. analysis.json has every head."
    return Section(title, about, tables=tables)
