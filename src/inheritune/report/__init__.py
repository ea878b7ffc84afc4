"""What a run looks like to a person: verdict, table, curves, page. Reads result files, never models."""

from inheritune.report.analysis_page import write_analysis
from inheritune.report.analysis_verdict import analysis_verdict, layers_table, models_table
from inheritune.report.arms import arm_curve, reference_curve, tokens_to_reach
from inheritune.report.comparison import comparison_table, notes_on, verdict_of, write_comparison
from inheritune.report.folders import kind_of, write_reports
from inheritune.report.markup import markdown_block, markdown_table, markdown_text
from inheritune.report.notation import duration, short, spans, with_error
from inheritune.report.page import PAIR, write_report
from inheritune.report.task_table import ONE_START, read_tasks, start_note, task_table
from inheritune.report.verdict import table, verdict

__all__ = [
    "ONE_START",
    "PAIR",
    "analysis_verdict",
    "arm_curve",
    "comparison_table",
    "duration",
    "kind_of",
    "layers_table",
    "markdown_block",
    "markdown_table",
    "markdown_text",
    "models_table",
    "notes_on",
    "read_tasks",
    "reference_curve",
    "short",
    "spans",
    "start_note",
    "table",
    "task_table",
    "tokens_to_reach",
    "verdict",
    "verdict_of",
    "with_error",
    "write_analysis",
    "write_comparison",
    "write_report",
    "write_reports",
]
