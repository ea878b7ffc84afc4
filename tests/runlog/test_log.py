"""The log: who sees it, and what nobody sees."""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import tiny_recipe
from inheritune import cli
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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level("INFO", "inheritune")
    before = state()

    def broken(*_: Any, **__: Any) -> None:
        logger.info("not shown, as no command has asked for it")
        logger.warning("shown")
        raise RuntimeError("broken")

    monkeypatch.setattr("yaml.compose", broken)
    (tmp_path / "any.yaml").write_text("seed: 1\n")
    assert cli.main(["run", str(tmp_path / "any.yaml")]) == 1
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
    rank: int, quiet: bool, text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Lines come while the recipe is read, and when the processes are to meet."""
    for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    compose = yaml.compose

    def early(*given: Any, **named: Any) -> Any:
        logger.warning("early")
        return compose(*given, **named)

    def meet(*_: Any, **__: Any) -> None:
        logger.info("a line")
        logger.warning("another")
        raise SystemExit

    monkeypatch.setattr(yaml, "compose", early)
    monkeypatch.setattr(torch.distributed, "init_process_group", meet)
    recipe = write_recipe(tiny_recipe(text, reference_folder))
    with pytest.raises(SystemExit):
        cli.main(["run", str(recipe), "--out", str(tmp_path / "run"), *["--quiet"] * quiet])
    shown = [] if rank else ["warning: early"] if quiet else ["warning: early", "a line", "warning: another"]
    assert capsys.readouterr().err.splitlines() == shown


@pytest.mark.parametrize(("ready", "shown"), [
    ("", "a warning\n"),
    ("logging.basicConfig(level='INFO', format='%(message)s')", "a line\na warning\n"),
])  # fmt: skip
def test_from_python(ready: str, shown: str) -> None:
    program = f"import logging; from inheritune.runlog import logger; {ready}\nlogger.info('a line')\nlogger.warning('a warning')"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr == shown
