"""Filters: which documents are excluded. Each filter is one file: its keys in a recipe, its checks, its rules."""

import inheritune.recipe
