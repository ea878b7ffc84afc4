"""Checking a recipe, with overrides, and saying all that is wrong with it at once."""

import contextlib
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from inheritune.errors import InputError, Problem
from inheritune.limits import check_yaml
from inheritune.recipe.reference import Reference
from inheritune.recipe.renamed import RENAMED, REPLACED, with_new_names
from inheritune.recipe.yaml_file import Lines, read_value, read_yaml
from inheritune.settings.part import Unfit

Model = TypeVar("Model", bound=BaseModel)
_COMMAND_LINE = "command line"


def load_file(model: type[Model], path: str | Path, overrides: Sequence[str] = (), *, saved: bool = False) -> Model:
    """Read and check a recipe or a suite (`model`); one that a run has `saved` may have the names of earlier versions.

    `overrides` are texts such as `train.length=2 epochs`, applied before the check. A key `base` names another file,
    relative to this one, whose keys hold where this one has none. Raises InputError with every problem found: unknown
    keys, wrong types, numbers out of range, values that contradict each other.
    """
    path = Path(path)
    tree, lines = read_yaml(path)
    base = tree.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise InputError(str(path), f"base: got {base!r}", "give the path of a YAML file, relative to this one")
        below, lines_below = read_yaml(path.parent / base)
        if "base" in below:
            raise InputError(str(path.parent / base), "is a base, and has a base itself", "write its keys out")
        tree, lines = merged(below, tree), lines_below | lines
    tree = override(tree, overrides)
    for text in overrides:
        key = tuple(text.lstrip("-").partition("=")[0].split("."))
        lines |= {key[:end]: _COMMAND_LINE for end in range(1, len(key)) if key[:end] not in lines}
        lines[key] = _COMMAND_LINE
    return check(model, with_new_names(tree) if saved else tree, str(path), lines)


def is_suite(path: str | Path) -> bool:
    """Whether a file is a suite, which has `arms`, and not a recipe. Raises InputError where it cannot be read."""
    return "arms" in read_yaml(Path(path))[0]


def merged(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`tree` with the keys of `over` in place of its own, mapping by mapping; lists are replaced whole."""
    result = dict(tree)
    for key, value in over.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def dump_recipe(recipe: BaseModel) -> str:
    """The resolved recipe as YAML: every key, defaults included."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def check(model: type[Model], tree: Any, place: str, lines: Lines | None = None) -> Model:
    """Validate `tree` as `model`; raises InputError naming place, line, key, what was given and what is legal.

    `lines` has the place of each key, as `read_yaml` gives them.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = [
            _problem(model, detail, place, _lines_of(tree, detail, lines or {}), _arm(tree, detail["loc"]))
            for detail in error.errors()
        ]
        raise InputError.of(list({str(problem): problem for problem in problems}.values())) from None


def model_at(path: str | Path, place: str = "model") -> Reference:
    """A model by its path alone. Raises InputError, in the name of `place`, for a text that can be none."""
    return check(Reference, {"path": str(path)}, place)


def override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`tree` with `dotted.key=value` texts merged in; values are read as YAML, entries of lists counted from 0."""
    tree = json.loads(json.dumps(tree, default=str))
    for text in overrides:
        key, equals, value = text.lstrip("-").partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(_COMMAND_LINE, f"{text!r} is not an override", "write it as --dotted.key=value")
        with contextlib.suppress(yaml.YAMLError, RecursionError):  # `read_value` says what it then is
            check_yaml(value, _COMMAND_LINE)
        wanted = read_value(value)
        *parents, last = key.split(".")
        node: Any = tree
        for parent in parents:
            node = _inner(node, parent, text)
        if isinstance(node, list):
            node[_place(node, last, text)] = wanted
        else:
            node[last] = wanted
    return tree


def _inner(node: Any, key: str, text: str) -> Any:
    """The value below a key or at a place of a list; a mapping is made where there is nothing."""
    if isinstance(node, list):
        key = _place(node, key, text)  # type: ignore[assignment]
    elif node.get(key) is None:
        node[key] = {}
    elif isinstance(node[key], str) and key == "reference":
        node[key] = {"path": node[key]}
    if not isinstance(node[key], dict | list):
        raise InputError(_COMMAND_LINE, f"{text!r}: {key} has no keys", "override the whole of it")
    return node[key]


def _place(items: list[Any], key: str, text: str) -> int:
    if not key.isdecimal() or int(key) >= len(items):
        what = f"{text!r}: no entry {key} in a list of {len(items)}"
        raise InputError(_COMMAND_LINE, what, "entries are counted from 0")
    return int(key)


def _arm(tree: Any, location: Sequence[Any]) -> str:
    """The name of the arm of a suite that an error lies in: its number alone would have to be counted out."""
    try:
        name = tree["arms"][location[1]]["name"] if location[0] == "arms" else None
    except (LookupError, TypeError):
        return ""
    return f": arm {name}" if isinstance(name, str) else ""


def _lines_of(tree: Any, detail: Any, lines: Lines) -> Lines:
    """`lines`, with the place of a key of an arm's `train` as the place of the whole suite where that is wrong: such
    keys are checked together with the suite's.
    """
    named = _ARM_KEY.match(detail["msg"]) if not detail["loc"] else None
    if named is None:
        return lines
    for number, arm in enumerate(tree.get("arms", ())):
        if arm.get("name") == named["arm"]:
            key = ("arms", str(number), "train", *(named["unknown"] or named["key"]).split("."))
            return lines | {(): lines[key]} if key in lines else lines
    return lines


_ARM_KEY = re.compile(r"Value error, arm (?P<arm>[^:]+): train: (?:unknown key '(?P<unknown>[^']*)'|(?P<key>[\w.]+): )")


def _problem(model: type[BaseModel], detail: Any, place: str, lines: Lines, inside: str = "") -> Problem:
    """One pydantic error in our words; `inside` is put behind its place."""
    kind, message = detail["type"], detail["msg"].removeprefix("Value error, ").rstrip(".")
    location = [str(part) for part in detail["loc"]]
    # the last part of an unknown key's place is the key as it was written, whatever that looks like
    own = 1 if kind in ("extra_forbidden", "invalid_key") else 0
    shown, last = _follow(model, location[: len(location) - own])
    shown += location[len(location) - own :]
    key = tuple(shown)
    while key and key not in lines:
        key = key[:-1]
    where = lines.get(key, place) + inside
    dotted = ".".join(shown)
    given = detail.get("input")
    if own:
        legal = list(last.model_fields)
        above = shown[-2] if len(shown) > 1 else place
        if (above, shown[-1]) in RENAMED:
            return Problem(where, f"unknown key {dotted!r}", f"it is called {RENAMED[above, shown[-1]]!r} now")
        if (above, shown[-1]) in REPLACED:
            return Problem(where, f"unknown key {dotted!r}", REPLACED[above, shown[-1]])
        near = nearest(shown[-1], last if isinstance(given, dict) else model, last)
        hint = f"did you mean {near!r}? " if near else ""
        return Problem(where, f"unknown key {dotted!r}", f"{hint}legal keys are {', '.join(legal)}")
    if kind == "missing":
        return Problem(where, f"key {dotted!r} is missing", "add it")
    if kind == "model_type":
        return Problem(
            where, f"{dotted}: got {given!r}: not a mapping", f"legal keys are {', '.join(last.model_fields)}"
        )
    if kind == "string_unicode":
        return Problem(where, f"{dotted}: got {given!r}: not UTF-8", "rename what has this name, and give the new name")
    message, _, remedy = (given.why if isinstance(given, Unfit) else message).partition("; ")
    what = f"{dotted}: " if dotted else ""
    if not isinstance(given, dict | list):
        what += f"got {given!r:.200}: "
    return Problem(where, what + message[:1].lower() + message[1:], remedy or "change it")


def nearest(written: str, model: type[BaseModel], here: type[BaseModel]) -> str | None:
    """The legal key that `written` is most likely meant to be: one of `here`, else one anywhere in `model`, dotted.

    Upper and lower case, hyphens and underscores count as the same.
    """
    own = {_plain(name): name for name in here.model_fields}
    word = _plain(written)
    close = difflib.get_close_matches(word, own, n=1)
    if close:
        return own[close[0]]
    everywhere = _by_last_part(model)
    if word in everywhere:
        return everywhere[word]
    part = _by_last_part(model, parts_too=True).get(word)
    if part is not None and part.count(".") == 1:  # a list or part far inside is hardly what was meant
        return part
    short = [name for plain, name in own.items() if len(word) > 1 and word == _initials(plain)]
    if short:
        return short[0]
    inside = [name for plain, name in own.items() if plain in word.split("_") or word in plain.split("_")]
    if inside:
        return inside[0]
    close = difflib.get_close_matches(word, everywhere, n=1, cutoff=0.8)
    close = close or difflib.get_close_matches(word, own, n=1, cutoff=0.4)
    close = close or [part for part in word.split("_") if part in everywhere]
    return (everywhere | own)[close[0]] if close else None


def _plain(key: str) -> str:
    return key.strip().lower().replace("-", "_").replace(" ", "_")


def _initials(key: str) -> str:
    return "".join(part[:1] for part in key.split("_"))


def _by_last_part(model: type[BaseModel], parts_too: bool = False) -> dict[str, str]:
    """The dotted keys below `model` by their last part; of keys with the same last part, the outermost."""
    dotted = sorted(_dotted(model, parts_too), key=lambda one: -one.count("."))
    return {_plain(one.rpartition(".")[2]): one for one in dotted}


def _dotted(model: type[BaseModel], parts_too: bool, at: str = "") -> Iterator[str]:
    """Every key below `model` that has a single value, those of a part before those of its parts.

    With `parts_too` also those of lists and parts.
    """
    for name, field in model.model_fields.items():
        if parts_too or (not _models_in(field.annotation) and get_origin(field.annotation) not in (list, dict)):
            yield f"{at}{name}"
    for name, field in model.model_fields.items():
        for inner in _models_in(field.annotation)[:1]:
            yield from _dotted(inner, parts_too, f"{at}{name}.")


def _follow(model: type[BaseModel], location: list[str]) -> tuple[list[str], type[BaseModel]]:
    """A place as the reader's file has it, and the model at that place.

    pydantic adds the name of a union's member to the path (its class, its tag or its type); no file has such a key.
    """
    shown: list[str] = []
    members = [model]
    for part in location:
        chosen = [member for member in members if len(members) > 1 and part in _member_names(member)]
        if chosen:
            members = chosen
            continue
        field = next((member.model_fields[part] for member in members if part in member.model_fields), None)
        if field is not None:
            members = _models_in(field.annotation) or members
        elif part[:1].isupper() or any(mark in part for mark in "[(-") or part in ("int", "float", "str"):
            continue
        shown.append(part)
    return shown, members[0]


def _member_names(model: type[BaseModel]) -> set[str]:
    """What a union calls this member: its class, or the one value of a field that tells the members apart."""
    constants = {get_args(field.annotation) for field in model.model_fields.values()}
    return {model.__name__, *(values[0] for values in constants if len(values) == 1 and isinstance(values[0], str))}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def completed(model: type[BaseModel], before: Any) -> Any:
    """Settings that were resolved earlier, under today's names, with keys that are new since then at their defaults.

    What is no longer legal is returned as it is.
    """
    try:
        return model.model_validate(with_new_names(before)).model_dump(mode="json")
    except ValidationError:
        return before


def changes(before: Any, now: Any, free: Sequence[str] = ()) -> list[str]:
    """What differs between two trees of settings, in words for people; below the dotted keys in `free` all may."""
    old, new = _flat(before), _flat(now)
    return [
        f"{key} ({old.get(key)!s:.80} there, {new.get(key)!s:.80} here)"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and not any(f"{key}.".startswith(f"{part}.") for part in free)
    ]


def _flat(tree: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {at: tree}
    return {
        dotted: leaf for key, value in tree.items() for dotted, leaf in _flat(value, f"{at}.{key}".lstrip(".")).items()
    }
