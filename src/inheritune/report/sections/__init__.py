"""The sections of a page, a module each: its charts and tables.

A module has PLACE, which orders the sections (5 to 99; look for a gap), and `section(shown)`, which returns a section,
an empty one if it has nothing to show. Titles and names of figures must be unique. Nothing else names a module.
"""
