"""Every command and every example of Python in the documentation fits the program, or says that it is not run.

A command of inheritune is parsed by the program itself, and its keys are looked up in the models of a recipe or a
suite. `make` must have the target, and a script must exist and know the options. test_tutorial.py runs docs/laptop.md.
"""

import ast
import importlib
import importlib.util
import inspect
import re
import tomllib
import typing
from pathlib import Path
from typing import Any

import pytest
import typer.main
from doc_pages import PAGES, ROOT, Block, Command, blocks_of, commands_of
from pydantic import BaseModel

import inheritune
from inheritune.cli.commands import app
from inheritune.experiment.suite import Suite
from inheritune.recipe import Recipe, Training

RECORDS = {ROOT / "docs" / "log.md"}
"""Pages of dated results: their commands are those of their day."""
PROGRAM: Any = typer.main.get_command(app)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "run": (Recipe,), "plan": (Recipe, Suite), "prepare": (Recipe,), "compare": (Suite,), "train": (Training,),
    "bench": (Training,),
}  # fmt: skip
"""What the keys of each command belong to."""


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS], ids=lambda page: page.name)
def test_commands_fit_the_program(page: Path) -> None:
    for block in blocks_of(page):
        for command in commands_of(block):
            if not command.is_marked:
                _check(command.words, command)


def test_records_say_that_their_commands_are_of_their_day() -> None:
    for page in RECORDS:
        assert "Commands are those of their day" in page.read_text(encoding="utf-8")


def _check(words: list[str], command: Command) -> None:
    program, *rest = words
    if program == "inheritune":
        _check_own(rest, command.place)
    elif program == "torchrun":
        _check_own(rest[rest.index("inheritune") + 1 :], command.place)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= {*targets}, command.place
    elif words[:2] == ["pip", "install"] and not any(word.startswith("-") for word in rest):
        for word in rest[1:]:
            name, _, extra = word.rstrip("]").partition("[")
            assert name in (".", "inheritune"), f"{command.place}: mark it in a comment: not run here"
            assert not extra or extra in EXTRAS, command.place
    elif program == "python":
        _check_script(rest, command.place)
    else:
        pytest.fail(f"{command.place}: no test knows {program!r}; mark it in a comment: not run here")


def _check_own(words: list[str], place: str) -> None:
    name, *rest = words
    if name.startswith("-") or not rest:
        assert name in ("--version", "--help", *PROGRAM.commands), place
    if name.startswith("-"):
        return
    command = PROGRAM.commands[name]
    try:
        context = command.make_context(name, list(rest))
    except typer.Exit:  # --help
        return
    except Exception as error:
        pytest.fail(f"{place}: {error}")
    free = context.args if command.context_settings.get("allow_extra_args") else []
    assert context.args == free, place
    for word in free:
        assert word.startswith("--"), f"{place}: unexpected word {word!r}"
        keys = word[2:].partition("=")[0].split(".")
        assert any(_has_key(model, keys) for model in MODELS[name]), f"{place}: no such key: {word}"


def _has_key(annotation: Any, keys: list[str]) -> bool:
    """Whether a type has a key `a.b.c`; of lists entries are named by their number, and mappings have any key."""
    if not keys:
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(keys[0])
        return field is not None and _has_key(field.annotation, keys[1:])
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is dict or origin is dict:
        return True
    if origin is list:
        return keys[0].isdigit() and _has_key(inner[0], keys[1:])
    return any(_has_key(one, keys) for one in inner)


def _check_script(words: list[str], place: str) -> None:
    if words[0] == "-m":
        found = importlib.util.find_spec(words[1])
        assert found is not None, place
        file = Path(str(found.origin))
        file = file.with_name("__main__.py") if file.name == "__init__.py" else file
        words = words[1:]
    else:
        file = ROOT / words[0]
    source = file.read_text(encoding="utf-8")
    for word in words[1:]:
        assert not word.startswith("--") or f'"{word}"' in source, f"{place}: {file.name} has no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_fits_the_package(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python" and page.name != "api.md":  # which is made of the functions
            _check_python(block)


def _check_python(block: Block) -> None:
    place = f"{block.page.name}:{block.line}"
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("inheritune"):
            module = importlib.import_module(str(node.module))
            assert all(one.name in dir(module) for one in node.names), place
        elif isinstance(node, ast.Import):
            assert all(importlib.util.find_spec(one.name) for one in node.names), place
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("inheritune."):
            function = eval(ast.unparse(node.func), {"inheritune": inheritune})
            values = [object()] * len(node.args), {str(one.arg): object() for one in node.keywords}
            inspect.signature(function).bind(*values[0], **values[1])


def test_a_wrong_command_is_found() -> None:
    for wrong in ("inheritune inherit MODEL out --laiers 3", "inheritune run a.yaml --train.lenght=1", "make nothing"):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            _check(wrong.split(" "), Command(wrong, [], False))
