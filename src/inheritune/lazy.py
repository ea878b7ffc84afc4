"""Packages whose names are imported when they are first used, so that importing one module does not load torch."""

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def exports(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` (PEP 562) of `package`, whose `__init__.py` calls this.

    They offer what that file imports under `if TYPE_CHECKING:`. So type checkers, editors and readers see plain
    imports, and the list is written once.
    """
    module = sys.modules[package]
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    imports = [
        statement
        for branch in tree.body
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for statement in branch.body
        if isinstance(statement, ast.ImportFrom)
    ]
    homes = {
        one.asname or one.name: (str(statement.module), one.name) for statement in imports for one in statement.names
    }

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, original = homes[name]
        value = getattr(import_module(home), original)
        setattr(module, name, value)  # later uses find it without this function
        return value

    return get, lambda: sorted(vars(module).keys() | homes.keys())
