"""Filters: which documents are excluded. Each filter is one file: its keys in a recipe, its checks, its rules."""

import inheritune.recipe  # noqa: F401 (it imports the modules here, so it has to come first)
