"""The generated pages of docs/ are what the models, the options and the docstrings say."""

from pathlib import Path

import pytest

from inheritune.cli.description import describe
from inheritune.cli.reference import PAGES
from inheritune.experiment.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", ["recipe", "suite"])
def test_the_page_is_of_today(page: str) -> None:
    """`make docs` writes it."""
    assert (DOCS / f"{page}.md").read_text(encoding="utf-8") == describe(page)


@pytest.mark.parametrize("page", PAGES)
def test_the_reference_is_of_today(page: str) -> None:
    """`make docs` writes it."""
    assert (DOCS / f"{page}.md").read_text(encoding="utf-8") == PAGES[page]()


def test_every_method_has_a_part_of_the_page() -> None:
    page = describe("suite")
    assert all(f"\n## `arms.start: kind: {kind}`\n" in page for kind in METHODS)
