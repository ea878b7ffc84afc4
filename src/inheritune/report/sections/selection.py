"""The blocks that a measured choice dropped."""

from inheritune.report.analysis import AnalysisFolder
from inheritune.report.page import Section, Table
from inheritune.report.shown import Shown
from inheritune.results import Dropped

PLACE = 65


def section(shown: Shown) -> Section:
    """Of an analysis that is shown alone."""
    title, (models, labels) = "Selection", shown.models
    if shown.only(AnalysisFolder) is None:
        return Section(title)
    tables = [
        (label if len(labels) > 1 else "", _table(model.selection.dropped))
        for model, label in zip(models, labels, strict=True)
        if model.selection and model.selection.dropped
    ]
    return Section(title, "Blocks in the order in which they were dropped.", tables=tables)


def _table(dropped: list[Dropped]) -> Table:
    """A row for each block; auto alone measures the losses."""
    rows = [
        [
            str(number), str(one.block), "" if one.increase is None else f"{one.increase:+.3f}",
            "" if one.loss is None else f"{one.loss:.3f}",
        ]
        for number, one in enumerate(dropped, 1)
    ]  # fmt: skip
    return Table(["", "block dropped", "change of the loss", "loss then"], rows).without_empty_columns()
