"""Every link of the documentation leads somewhere, and every page is in the site's navigation."""

from pathlib import Path

import pytest
import yaml
from doc_pages import PAGES, ROOT, anchors_of, links_of


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links_of(page):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors_of(target)):
            wrong.append(link)
    assert not wrong


def test_every_page_is_in_the_navigation() -> None:
    """`make docs-site` fails on an entry without a page; a page without an entry would be found by nobody."""
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)  # strings alone
    named = _pages(settings["nav"])
    made = ["index.md", "contributing.md", "changes.md"]  # by docs/site/hooks.py
    assert sorted(named) == sorted(made + [page.name for page in PAGES if page.parent != ROOT])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 600


def _pages(entries: list[dict[str, object]]) -> list[str]:
    found = []
    for entry in entries:
        for value in entry.values():
            found += _pages(value) if isinstance(value, list) else [str(value)]
    return found
