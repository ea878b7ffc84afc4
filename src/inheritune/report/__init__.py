"""What a run looks like to a person: verdict, table, curves, page. Reads result files, never models."""

from inheritune.report.page import spans, write_report
from inheritune.report.verdict import table, verdict

__all__ = ["spans", "table", "verdict", "write_report"]
