"""Names and texts with escapes, markup and credentials on pages, in Markdown and in the terminal: only text."""

import io
import logging
from pathlib import Path

import pytest

from inheritune.cli.tables import table_of
from inheritune.report.comparison import ComparisonFolder
from inheritune.report.figures import draw
from inheritune.report.markup import markdown_block, markdown_text, recipe_for_readers
from inheritune.report.page import Page, Section, Table, write_page
from inheritune.report.shown import Shown
from inheritune.runlog import LiveLine, PlainConsole, log_on_terminal, logger

EVIL = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\x00 [bold]b[/] <b>x</b> hf_abcdefghijklmnopqrst https://u:PASS@h/x?k=PASS"
)
ACTING = "\x1b\x07\x9b\u202e\x00"


def check(text: str) -> None:
    assert not set(text) & set(ACTING)
    assert "PASS" not in text
    assert "abcdefghijklmnopqrst" not in text
    assert "\\x1b" in text


def test_on_a_page_and_in_markdown(tmp_path: Path) -> None:
    section = Section(
        EVIL, EVIL, [EVIL], tables=[(EVIL, Table([EVIL], [[EVIL]]))], samples=[(EVIL, [(EVIL, EVIL)])], code=[(EVIL, EVIL)],
        notes=[EVIL], folded=[(EVIL, EVIL)],
    )  # fmt: skip
    write_page(Page(EVIL, [("#000", EVIL)], [section]), tmp_path)
    for name in ("index.html", "report.md"):
        check((tmp_path / name).read_text())
    assert "<b>x" not in (tmp_path / "index.html").read_text()
    check(markdown_text(EVIL))
    check("\n".join(markdown_block(EVIL)))


def test_in_a_figure() -> None:
    picture = draw("a", EVIL.replace("\x00", ""), lambda _, axes: axes.set_title("\x1b[31m\u202eevil"), 2)
    assert not set(picture.svg) & set(ACTING)
    assert "\\x1b[31m" in picture.svg


def test_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with log_on_terminal(logging.INFO), LiveLine(EVIL, 1, 0) as line:
        logger.info(EVIL)
        logger.warning(EVIL)
        line.show({"step": 1, "loss": 1.0})
    shown = capsys.readouterr().err
    check(shown)
    assert shown.count("[bold]b[/]") == 3  # no markup of rich either
    file = io.StringIO()
    console = PlainConsole(file=file, width=400)
    console.print(table_of([EVIL], [[EVIL]]))
    check(file.getvalue())
    assert file.getvalue().count("[bold]b[/]") == 2


def test_recipes_and_suites_for_readers(tmp_path: Path) -> None:
    text = "data:\n  sources:\n  - path: https://u:PASS@h/x?k=PASS\n  - path: /home/me/text\n  api_key: PASS\n"
    shown = recipe_for_readers(text)
    assert "PASS" not in shown
    assert "/home" not in shown
    assert "PASS" not in recipe_for_readers("a: [https://u:PASS@h\n")  # damaged
    (tmp_path / "suite.yaml").write_text(text)
    page = Shown([("", ComparisonFolder.read(tmp_path))]).page()
    assert "PASS" not in str(page)
    assert "/home" not in str(page)
