"""A suite of arms under one budget: planned, trained, judged and set side by side."""

from inheritune.comparison.course import compare
from inheritune.comparison.planning import plan_suite

__all__ = ["compare", "plan_suite"]
