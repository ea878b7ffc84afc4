"""What mkdocs does beyond mkdocs.yml: pages of files outside of docs/, and copies of other files that pages link."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
"""Files of the project that are pages of the site."""
COPIED = ("LICENSE", "recipes/")
"""Files and folders that are copied below source/."""
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and the copies."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_linked(text, ROOT)))
    for name in COPIED:
        place = ROOT / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                files.append(File.generated(config, _copy(file), abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links of a page in docs/ that lead out of it at the site's own pages and copies."""
    source = page.file.abs_src_path
    return markdown if source is None else _linked(markdown, Path(source).parent)


def _linked(text: str, folder: Path) -> str:
    """The Markdown of a file in `folder` with the links that it has on the site."""

    def link(found: re.Match[str]) -> str:
        file = (folder / found[1]).resolve()
        name = file.relative_to(ROOT).as_posix()
        if name in PAGES:
            name = PAGES[name]
        elif name.startswith("docs/"):
            name = name.removeprefix("docs/")
        elif file.is_dir():
            name = "recipe.md"  # a site has no listing of a folder
        else:
            name = _copy(file)
        return f"]({name}{found[2] or ''})"

    return LINK.sub(link, text)


def _copy(file: Path) -> str:
    """The place of a copy; browsers show .txt."""
    name = file.relative_to(ROOT).as_posix()
    return f"source/{name}" if file.suffix not in (".yaml", "") else f"source/{name}.txt"
