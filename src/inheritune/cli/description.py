"""docs/recipe.md and docs/suite.md, written from the models: every key with its type, default and meaning.

`python -m inheritune.cli.description` prints the first, with the word `suite` behind it the second.
"""

import sys
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from inheritune.experiment.suite import Suite
from inheritune.recipe.budget import Speed
from inheritune.recipe.models import Basis, Recipe
from inheritune.settings.size import In, Size

_HEADS = {
    "recipe": """\
# The recipe

A YAML file. Unknown keys are errors, and all problems are reported at once. A size carries its unit: `1B tokens`,
`64K steps`, `8 epochs`, `10 minutes`, `2%` (K, M, B and T are powers of 1000). On the command line any key is set as
`--dotted.key=value`; the resolved recipe is saved with the run as recipe.yaml. A key `base` names another file,
relative to this one, whose keys hold where this one has none.

This page is written by `make docs` from the models in src/inheritune/recipe/.
""",
    "suite": """\
# The suite

A YAML file for `inheritune compare`: the parts that it has in common with a [recipe](recipe.md), and the arms. A key
`base` names another file, relative to this one, whose keys hold where this one has none. Any key is set on the command
line as `--dotted.key=value`, entries of lists by their number from 0: `--arms.0.start=lazy`.
[comparing.md](comparing.md) says what comes of it.

This page is written by `make docs` from the models in src/inheritune/experiment/.
""",
}


def describe(page: str = "recipe") -> str:
    """docs/recipe.md, or docs/suite.md (`suite`) without what the first has."""
    is_suite = page == "suite"
    lines = [_HEADS[page]]
    _describe(Suite if is_suite else Recipe, "", lines, {Basis, *_reachable(Recipe)} if is_suite else set(), page)
    return "\n".join(lines).rstrip() + "\n"


def _reachable(model: type[BaseModel]) -> set[type[BaseModel]]:
    parts = {part for field in model.model_fields.values() for part in _models(field.annotation)}
    return parts.union(*(_reachable(part) for part in parts))


def _describe(
    model: type[BaseModel], prefix: str, lines: list[str], known: set[type[BaseModel]], title: str = ""
) -> None:
    lines += [f"## `{title or prefix}`", "", " ".join((model.__doc__ or "").split()), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    inner: list[tuple[type[BaseModel], str, str]] = []
    for name, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else _value(field.default)
        kind = _kind(field.annotation, field.metadata)
        meaning = " ".join((field.description or "").split())
        lines.append(f"| `{name}` | {kind} | {default} | {meaning} |".replace("| |", "|  |"))
        path = f"{prefix}.{name}".lstrip(".")
        parts = [part for part in _models(field.annotation) if part not in known]
        inner += [(part, path, f"{path}: {_constant(part)}" if len(parts) > 1 else path) for part in parts]
    lines.append("")
    for part, path, heading in inner:
        _describe(part, path, lines, known, heading)


def _constant(model: type[BaseModel]) -> str:
    """What tells one of several mappings from the others: the first key that has one legal value."""
    for name, field in model.model_fields.items():
        if len(typing.get_args(field.annotation)) == 1 and typing.get_origin(field.annotation) is typing.Literal:
            return f"{name}: {field.default}"
    return model.__name__


def _value(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    return f"`{shown}`" if shown != "" else "empty"


def _kind(annotation: Any, metadata: list[Any]) -> str:
    for mark in [*metadata, *typing.get_args(annotation)]:
        if isinstance(mark, In):
            return "size in " + " or ".join(mark.units)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0], list(arguments[1:]))
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_kind(argument, []) for argument in arguments))
    if origin is list:
        return f"list of {_kind(arguments[0], [])}"
    if origin is tuple:
        return "pair of numbers"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping, see below"
    names: dict[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    names |= {type(None): "null", Size: "size", Speed: "speed such as 2x"}
    return names.get(annotation, "path" if "Path" in str(annotation) else "mapping")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for argument in typing.get_args(annotation) for part in _models(argument)]


if __name__ == "__main__":
    print(describe(*sys.argv[1:]), end="")
