"""Every figure of every block."""

from inheritune.report.analysis import AnalysisFolder, layers_table
from inheritune.report.page import Section
from inheritune.report.shown import Shown

PLACE = 70


def section(shown: Shown) -> Section:
    """Of an analysis that is shown alone: a table for each model."""
    title, (models, labels) = "Layer by layer", shown.models
    if (analysis := shown.only(AnalysisFolder)) is None:
        return Section(title)
    tables = [
        (label if len(labels) > 1 else "", layers_table(model, analysis.analysis.tau))
        for model, label in zip(models, labels, strict=True)
    ]
    about = "Sink and entropy are means over the layer's heads. A dash: not measured. analysis.json has every head."
    return Section(title, about, tables=tables)
