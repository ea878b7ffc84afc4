"""Components that are registered by being there: each is a class in a file of its own in the package of its kind."""

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

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
