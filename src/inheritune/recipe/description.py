"""docs/recipe.md, written from the models: every key with its type, default and meaning. `python -m` prints it."""

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from inheritune.recipe.models import Recipe
from inheritune.recipe.size import In, Size

_HEAD = """\
# The recipe

A YAML file. Unknown keys are errors, and all problems are reported at once. A size carries its unit: `1B tokens`,
`64K steps`, `8 epochs`, `10 minutes`, `2%` (K, M, B and T are powers of 1000). On the command line any key is set as
`--dotted.key=value`; the resolved recipe is saved with the run as recipe.yaml.

This page is written by `make docs` from the models in src/inheritune/recipe/.
"""


def describe() -> str:
    """The page as Markdown."""
    lines = [_HEAD]
    _describe(Recipe, "", lines)
    return "\n".join(lines).rstrip() + "\n"


def _describe(model: type[BaseModel], prefix: str, lines: list[str], title: str = "") -> None:
    lines += [f"## `{title or prefix or 'recipe'}`", "", " ".join((model.__doc__ or "").split()), ""]
    lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    inner: list[tuple[type[BaseModel], str, str]] = []
    for name, field in model.model_fields.items():
        default = "required" if field.default is PydanticUndefined else _value(field.default)
        kind = _kind(field.annotation, field.metadata)
        meaning = " ".join((field.description or "").split())
        lines.append(f"| `{name}` | {kind} | {default} | {meaning} |".replace("| |", "|  |"))
        path = f"{prefix}.{name}".lstrip(".")
        models = _models(field.annotation)
        inner += [(found, path, f"{path}: {_constant(found)}" if len(models) > 1 else path) for found in models]
    lines.append("")
    for found, path, shown in inner:
        _describe(found, path, lines, shown)


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
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null", Size: "size"}
    return names.get(annotation, "path" if "Path" in str(annotation) else "mapping")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in typing.get_args(annotation) for found in _models(argument)]


if __name__ == "__main__":
    print(describe(), end="")
