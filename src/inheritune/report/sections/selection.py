"""The blocks that a measured choice dropped."""

from itertools import count

from inheritune.report.analysis import AnalysisFolder
from inheritune.report.page import Section, Table
from inheritune.report.shown import Shown
from inheritune.results import Dropped

PLACE = 65
_COLUMNS = ("", "block dropped", "change of the loss", "loss then")


def section(shown: Shown) -> Section:
    """Return the chosen blocks, if the page shows one analysis only."""
    title, models = "Selection", shown.models
    if shown.only(AnalysisFolder) is None:
        return Section(title)
    tables = [
        (model.name if len(models) > 1 else "", Table.of(_COLUMNS, list(map(_row, count(1), model.selection.dropped))))
        for model in models
        if model.selection and model.selection.dropped
    ]
    return Section(title, "Blocks in the order in which they were dropped.", tables=tables)


def _row(number: int, dropped: Dropped) -> dict[str, str]:
    """A row for a block; auto alone measures the losses."""
    return {
        "": str(number),
        "block dropped": str(dropped.block),
        "change of the loss": "" if dropped.increase is None else f"{dropped.increase:+.3f}",
        "loss then": "" if dropped.loss is None else f"{dropped.loss:.3f}",
    }
