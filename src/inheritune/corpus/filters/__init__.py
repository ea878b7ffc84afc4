"""Filters exclude documents. Each filter is one file with its keys in a recipe, its checks and its rules."""

import inheritune.recipe.filters
