"""Runs, comparisons and analyses for people: verdicts, tables, pages. Reads result files, never models."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.report.advice import behind_until, tokens_to_match
    from inheritune.report.comparison import comparison_table, notes_on, speed_up_cell, verdict_of
    from inheritune.report.curves import arm_curve, speed_up, tokens_to_reach
    from inheritune.report.folders import kind_of, write_report, write_reports
    from inheritune.report.forecast import forecast_of
    from inheritune.report.markup import markdown_block, markdown_table, markdown_text
    from inheritune.report.notation import many, short, spans, with_error
    from inheritune.report.run_summary import loss_note, table, verdict
    from inheritune.report.shapes import shape_lines, shape_notes, shape_table
    from inheritune.report.shown import PAIR
    from inheritune.report.tasks import ONE_START, harness_note, start_note, task_table

__getattr__, __dir__ = lazy.exports(__name__)
