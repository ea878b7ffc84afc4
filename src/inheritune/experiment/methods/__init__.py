"""Methods: how an arm's target starts and how it is trained. Every file here that holds a `Method` adds one."""

import pkgutil
from importlib import import_module

from inheritune.experiment.methods.base import Method, Stage

_MODULES = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]

METHODS: dict[str, type[Method]] = {
    method.model_fields["kind"].default: method
    for module in _MODULES
    for method in vars(module).values()
    if isinstance(method, type) and issubclass(method, Method) and method.__module__ == module.__name__
    and isinstance(method.model_fields["kind"].default, str)
}  # fmt: skip
"""Every method by the name that suites use."""

__all__ = ["METHODS", "Method", "Stage"]
