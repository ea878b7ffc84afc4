"""The log: who sees it, and what nobody sees."""

import logging
import subprocess
import sys
from typing import Any

import pytest

from inheritune import cli
from inheritune.cli import commands
from inheritune.runlog import log_on_terminal, logger

SECRET = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"


def state() -> tuple[Any, ...]:
    return logger.level, logger.propagate, list(logger.handlers)


def test_no_handler_sees_credentials(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    logger.info(f"with {SECRET}")
    logger.warning("from %s, as %d%%", f"https://me:{SECRET}@host/x", 5)
    assert len(caplog.messages) == 2
    assert SECRET not in caplog.text
    assert caplog.messages[1].endswith(", as 5%")


def test_the_log_is_as_it_was_after_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    before = state()

    def broken(*_: Any) -> None:
        logger.info("not shown, as no command has asked for it")
        logger.warning("shown")
        raise RuntimeError("broken")

    monkeypatch.setattr("inheritune.recipe.load_recipe", broken)
    assert cli.main(["run", "any.yaml"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: shown"
    assert "broken" in second
    assert caplog.messages == []
    assert state() == before
    with pytest.raises(KeyboardInterrupt), log_on_terminal(logging.INFO):
        raise KeyboardInterrupt
    assert state() == before


@pytest.mark.parametrize(("rank", "quiet"), [(0, False), (0, True), (1, False)])
def test_one_process_shows_the_log_unless_it_is_quiet(
    rank: int, quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("inheritune.recipe.load_recipe", lambda *_: logger.warning("early"))

    def run(*_: Any) -> None:
        logger.info("a line")
        logger.warning("another")
        raise SystemExit

    monkeypatch.setattr(commands.experiment, "run", run)
    with pytest.raises(SystemExit):
        cli.main(["run", "any.yaml", *["--quiet"] * quiet])
    shown = [] if rank else ["warning: early"] if quiet else ["warning: early", "a line", "warning: another"]
    assert capsys.readouterr().err.splitlines() == shown


@pytest.mark.parametrize(("ready", "shown"), [
    ("", "a warning\n"),
    ("logging.basicConfig(level='INFO', format='%(message)s')", "a line\na warning\n"),
])  # fmt: skip
def test_from_python(ready: str, shown: str) -> None:
    program = f"import logging; from inheritune.runlog import logger; {ready}\nlogger.info('a line')\nlogger.warning('a warning')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr == shown
