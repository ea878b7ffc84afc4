"""A suite of arms under one budget: planned, trained, judged and set side by side."""

from inheritune.comparison.course import compare

__all__ = ["compare"]
