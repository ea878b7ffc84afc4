"""The sections of a page, a module each: its charts and tables.

A module has PLACE, by which sections are ordered, and `section(shown)`, which gives a section: an empty one if it has
nothing to show. A new chart is a new module here; nothing else names it.
"""
