"""The help: every command is in a group, its summary is whole, its examples can be typed."""

import shlex
from typing import Any

import pytest
import typer.main

from inheritune.cli import main
from inheritune.cli.commands import app
from inheritune.cli.help import EXAMPLES, GROUPS

PROGRAM: Any = typer.main.get_command(app)


def test_without_words_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    bare = capsys.readouterr()
    assert main(["--help"]) == 0
    assert bare.out == capsys.readouterr().out
    assert not bare.err
    assert "..." not in bare.out.replace("[ARGS]...", "")
    assert [line.removesuffix(":") for line in bare.out.splitlines() if line.removesuffix(":") in GROUPS] == [*GROUPS]


def test_every_command_is_in_a_group_and_has_examples() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(PROGRAM.commands)
    assert EXAMPLES.keys() == PROGRAM.commands.keys()


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for example in examples])
def test_examples_can_be_typed(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, name, *words = shlex.split(example)
    command = PROGRAM.commands[name]
    context = command.make_context(name, list(words))
    assert program == "inheritune"
    free = context.args if command.context_settings.get("allow_extra_args") else []
    assert all(word.startswith("--") and "=" in word for word in free)  # keys of a recipe
    assert len(context.args) == len(free)
    given = [value for value in context.params.values() if value is not None]
    listed = [str(one) for value in given for one in (value if isinstance(value, list | tuple) else [value])]
    assert not any(word.startswith("--") for word in listed)  # an option that is none, taken for a text
    assert name != "prepare" or context.params["out"] is not None
    assert main([name, "--help"]) == 0
    assert example in capsys.readouterr().out
