"""The site of the documentation is built without a warning, and asks no other server for anything."""

import re
from pathlib import Path

from other_docs import ROOT, run

LOADED = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def test_the_site(tmp_path: Path) -> None:
    out = tmp_path / "site"
    run("-m", "mkdocs", "build", "--strict", "--site-dir", out, NO_MKDOCS_2_WARNING="1")
    pages = sorted(out.rglob("*.html"))
    names = {page.stem for page in pages}
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} | {"index", "contributing", "changes"} <= names
    home = (out / "index.html").read_text(encoding="utf-8")
    assert "Five commands" in home
    assert 'href="method.html"' in home
    assert (out / "source" / "recipes" / "demo.yaml.txt").read_bytes() == (ROOT / "recipes" / "demo.yaml").read_bytes()
    assert (out / "notebooks" / "compare.ipynb").exists()
    for page in pages:
        assert not LOADED.findall(page.read_text(encoding="utf-8")), page.name
    for style in out.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_what_is_loaded_from_elsewhere_is_found() -> None:
    assert LOADED.findall('<script src="https://unpkg.com/mermaid"></script>')
    assert LOADED.findall("<link rel=stylesheet href=//fonts.googleapis.com/css>")
    assert not LOADED.findall('<a href="https://arxiv.org/abs/2404.08634">')
