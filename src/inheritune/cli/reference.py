"""docs/cli.md and docs/api.md, written from the program's options and from the docstrings of its functions.

`python -m inheritune.cli.reference cli` prints the first, with the word `api` the second.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import typer.main

import inheritune
from inheritune import results
from inheritune.cli.commands import app
from inheritune.cli.help import EXAMPLES, GROUPS

_CLI = """\
# The commands

Every command with its arguments and options. `inheritune COMMAND --help` prints the same. The
[vocabulary](vocabulary.md) explains the terms.

A command ends with status 0 when it is done, 2 when the input is wrong, 130 when it was interrupted, and 1 otherwise.

This page is written by `make docs` from the options in src/inheritune/cli/. The tests parse its examples and do not
run them.
"""
_API = """\
# The Python API

```python
import inheritune
```

A function does what the command of the same name does. Models are `transformers.PreTrainedModel`. The functions report
to the logger "inheritune": `logging.basicConfig(level="INFO")` shows what they do. Without it, only warnings appear.
Wrong input raises `inheritune.errors.InputError`; its text names the place, what was given, what is legal and the
remedy.

This page is written by `make docs` from the docstrings in src/inheritune/.
"""


def describe_commands() -> str:
    """docs/cli.md: all commands in their groups, with tables of arguments and options."""
    program: Any = typer.main.get_command(app)
    lines = [_CLI]
    for title, names in GROUPS.items():
        lines += [f"## {title}", ""]
        for name in names:
            lines += _command(program.commands[name], f"inheritune {name}")
    return "\n".join(lines)


def _command(command: Any, place: str) -> list[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    shown = [one.name.upper() if one.required else f"[{one.name.upper()}]" for one in arguments]
    lines = [f"### `{place}`", "", *(command.help or "").splitlines(), ""]
    lines += ["```text", " ".join([place, *shown, "[OPTIONS]"]), "```", ""]
    lines += ["| argument or option | default | meaning |", "| --- | --- | --- |"]
    for one in arguments:
        default = "required" if one.required else ""
        lines.append(f"| `{one.name.upper()}` | {default} | {_meaning(one)} |")
    for one in options:
        names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
        lines.append(f"| {names} | {_default(one)} | {_meaning(one)} |")
    lines += ["| `--help`, `-h` |  | Show the help. |", ""]
    epilog = " ".join((command.epilog or "").split())
    lines += [epilog.replace(": --", ": `--", 1) + "`", ""] if ": --" in epilog else []
    return [*lines, "Examples:", "", "```bash", *EXAMPLES[command.name], "```", ""]


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.is_flag:
        return f"`{option.opts[0] if option.default else option.secondary_opts[0]}`" if option.secondary_opts else ""
    return "" if option.default in (None, "") else f"`{option.default}`"


def _meaning(parameter: Any) -> str:
    words = " ".join((parameter.help or "").split()).replace("|", "\\|")
    return f"{words} Repeatable." if parameter.nargs == -1 else words


def describe_functions() -> str:
    """docs/api.md: the functions of `inheritune` and the results that they return, with signatures and docstrings."""
    names = [name for name in inheritune.__all__ if not name.startswith("_")]
    lines = [_API]
    for name in names:
        function = getattr(inheritune, name)
        lines += [f"## `inheritune.{name}`", "", "```python", *_signature(function), "```", ""]
        lines += [*_linked(inspect.getdoc(function) or "").splitlines(), ""]
    lines += ["## `inheritune.results`", "", *(inspect.getdoc(results) or "").splitlines(), ""]
    lines += ["| class | what it holds |", "| --- | --- |"]
    for name in dir(results):
        kind = getattr(results, name)
        if isinstance(kind, type) and issubclass(kind, results.ResultFile) and kind is not results.ResultFile:
            first = (inspect.getdoc(kind) or "").split("\n\n")[0]
            lines.append(f"| `{name}` | {' '.join(first.split())} |")
    return "\n".join(lines) + "\n"


def _linked(docstring: str) -> str:
    """A docstring in which the pages that it names are links."""
    return re.sub(r"\bdocs/(\w+\.md)", r"[\1](\1)", docstring)


def _signature(function: Callable[..., Any]) -> list[str]:
    """The head of a function, one parameter a line, as its source has it."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(f"{function} is not a function")
    given = node.args
    plain = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
    lines = [_parameter(one, default) for one, default in zip(plain, defaults, strict=True)]
    lines += ["*"] if given.kwonlyargs else []
    lines += [_parameter(one, default) for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return [f"{node.name}(", *(f"    {line}," for line in lines), f") -> {_annotation(node.returns)}"]


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    kind = f"{argument.arg}: {_annotation(argument.annotation)}"
    return kind if default is None else f"{kind} = {ast.unparse(default)}"


def _annotation(annotation: ast.expr | None) -> str:
    """An annotation without the quotes of names that are imported for type checkers alone."""
    if annotation is None:
        return "Any"
    return str(annotation.value) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)


PAGES: dict[str, Callable[[], str]] = {"cli": describe_commands, "api": describe_functions}
"""What writes each page of docs/."""

if __name__ == "__main__":
    print(PAGES[sys.argv[1]](), end="")
