"""The arms of comparisons."""

from inheritune.report.comparison import ComparisonFolder, comparison_table, notes_on
from inheritune.report.page import Section
from inheritune.report.shown import Shown, prefix, stacked

PLACE = 20


def section(shown: Shown) -> Section:
    """The table of all arms and what it means."""
    known = [(label, one.comparison) for label, one in shown.every(ComparisonFolder) if one.comparison is not None]
    if not known:
        return Section("Arms")
    tables = [(label, comparison_table(compared)) for label, compared in known]
    notes = [(prefix(label) if len(known) > 1 else "") + note for label, one in known for note in notes_on(one)]
    return Section("Arms", tables=[("", stacked(tables))], notes=notes)
