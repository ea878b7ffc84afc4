"""The program `inheritune`, which may import every room; torch is loaded only where a command needs it."""

from inheritune.cli.entry import main
