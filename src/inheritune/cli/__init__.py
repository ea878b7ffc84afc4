"""The program `inheritune`: the only place that sees everything. Imports torch only where a command needs it."""

from inheritune.cli.entry import main
