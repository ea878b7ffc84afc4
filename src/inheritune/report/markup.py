"""Pages from the templates beside this file, and the same text as Markdown."""

import re
from pathlib import Path
from typing import Any

import yaml

from inheritune.redaction import public, visible, visible_text, without_secrets


def fill_template(name: str, facts: dict[str, Any]) -> str:
    """The template `name` filled with `facts`, all escaped unless the template marks it as safe."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # texts but those marked as safe, which are of a class of their own
        finalize=lambda value: visible_text(without_secrets(value)) if type(value) is str else value,
    )
    return environment.get_template(name).render(facts)


def recipe_for_readers(text: str) -> str:
    """A recipe's or suite's YAML without credentials and without folders of this machine."""
    try:
        tree = public(yaml.safe_load(text))
    except (yaml.YAMLError, ValueError, RecursionError):
        return str(public(text))
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a table whose cells are Markdown already."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def markdown_text(text: str) -> str:
    """`text` so that Markdown shows it as it is: names of models and files may hold its signs, and tags."""
    return re.sub(r"([\\`*_\[\]<>|&~])", r"\\\1", visible(" ".join(without_secrets(text).split())))


def markdown_block(text: str, language: str = "") -> list[str]:
    """The lines of `text`, with control characters as escapes, fenced by more backticks than it has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, *visible_text(without_secrets(text)).split("\n"), fence]
