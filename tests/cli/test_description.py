"""docs/recipe.md and docs/suite.md are what the models say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from inheritune.cli.description import describe, describe_suite
from inheritune.experiment.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("name", "written"), [("recipe.md", describe), ("suite.md", describe_suite)])
def test_the_page_is_of_today(name: str, written: Callable[[], str]) -> None:
    """`make docs` writes it."""
    assert (DOCS / name).read_text(encoding="utf-8") == written()


def test_every_method_has_a_part_of_the_page() -> None:
    page = describe_suite()
    assert all(f"\n## `arms.start: kind: {kind}`\n" in page for kind in METHODS)
