"""What a run looks like to a person: verdict, table, curves, page. Reads result files, never models."""

from inheritune.report.analysis_page import write_analysis
from inheritune.report.analysis_verdict import analysis_verdict, layers_table, models_table
from inheritune.report.notation import spans
from inheritune.report.page import write_report
from inheritune.report.verdict import table, verdict

__all__ = [
    "analysis_verdict",
    "layers_table",
    "models_table",
    "spans",
    "table",
    "verdict",
    "write_analysis",
    "write_report",
]
