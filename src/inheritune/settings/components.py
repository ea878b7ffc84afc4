"""Components such as losses and methods: each file of a package is found and its class registered automatically."""

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

_T = TypeVar("_T")


def subclasses_in(package: str, folders: Iterable[str], base: type[_T], helpers: Iterable[str] = ()) -> list[type[_T]]:
    """The subclasses of `base` that the modules of a package define, by the modules' names, then in their order.

    `folders` is the package's `__path__`; modules among `helpers` are not imported. A class whose name begins with an
    underscore is not a component.
    """
    names = sorted({one.name for one in iter_modules(folders)} - set(helpers))
    modules = [import_module(f"{package}.{name}") for name in names]
    return [
        one
        for module in modules
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, base) and one is not base
        and one.__module__ == module.__name__ and not one.__name__.startswith("_")
    ]  # fmt: skip


def as_named(value: Any, key: str, known: Mapping[str, type], what: str) -> Any:
    """A component as settings name it: a plain name is a mapping of `key` to that name, with defaults for the rest.

    `known` are the components by name, `what` says in errors what they are. Raises ValueError with the legal names.
    """
    if isinstance(value, tuple(known.values())):
        return value
    value = {key: value} if isinstance(value, str) else value
    legal = ", ".join(known)
    if not isinstance(value, dict) or key not in value:
        raise ValueError(f"not a {what}; give a name, or a mapping with the key {key}: {legal}")
    if str(value[key]) not in known:
        near = difflib.get_close_matches(str(value[key]), known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no {what} {value[key]!r}; {hint}legal are {legal}")
    return value
