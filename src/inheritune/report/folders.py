"""`report`: folders told apart by what is in them, and shown."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from inheritune.errors import DamagedFile, InputError
from inheritune.report.analysis_page import write_analysis
from inheritune.report.comparison import write_comparison
from inheritune.report.joint import joint_page, read_folders
from inheritune.report.page import write_report
from inheritune.report.sections import GENERATOR, write_page

_MARKS = {"run": ("recipe.yaml",), "comparison": ("comparison.json", "suite.yaml"), "analysis": ("analysis.json",)}
"""A folder is of the first kind of which it holds a file."""


def kind_of(folder: Path) -> str:
    """What `folder` holds: a run, a comparison or an analysis. Raises InputError where it is none of them."""
    for kind, names in _MARKS.items():
        if any((folder / name).is_file() for name in names):
            return kind
    wanted = ", ".join(f"{kind} ({' or '.join(names)})" for kind, names in _MARKS.items())
    what = f"holds none of these: {wanted}" if folder.is_dir() else "is no folder"
    raise InputError(str(folder), what, "name folders that `inheritune run`, `compare` or `analyze` wrote")


def write_reports(folders: list[Path], out: Path | None = None) -> Path:
    """Write the page of one folder, or of several together; returns its path.

    Without `out`: of a run or a comparison its report/, of an analysis the folder itself, of several the folder
    `report`. Raises InputError for a folder that is none of these, named twice, or not readable, and for an `out` that
    holds something else than a report.
    """
    with _nothing_damaged(folders):
        return _write(folders, out)


@contextmanager
def _nothing_damaged(folders: list[Path]) -> Iterator[None]:
    """Pages are made of what files say, and of nothing else: what is missing there is damage."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ZeroDivisionError) as error:
        if os.environ.get("INHERITUNE_DEBUG"):
            raise
        what = f"a file in it does not say what its page needs ({type(error).__name__}: {' '.join(str(error).split())})"
        remedy = "bring its files back as they were, or run what wrote them again"
        raise DamagedFile(", ".join(map(str, folders)), what, remedy) from None


def _write(folders: list[Path], out: Path | None) -> Path:
    found = [(folder, kind_of(folder)) for folder in folders]
    places = [folder.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise InputError(str(folder), "is named twice", "name each folder once")
    if out is not None or len(found) > 1:
        out = Path("report") if out is None else out
        _check_out(out)
    if len(found) > 1:
        page = joint_page(
            read_folders([(label, folder, kind) for label, (folder, kind) in zip(_labels(folders), found, strict=True)])
        )
        assert out is not None
        out.mkdir(parents=True, exist_ok=True)
        return write_page(page, out)
    folder, kind = found[0]
    if kind == "run":
        return write_report(folder, out=out)
    return write_comparison(folder, out=out) if kind == "comparison" else write_analysis(folder, out)


def _labels(folders: list[Path]) -> list[str]:
    """Short names that tell the folders apart: the last part, or the paths as they were given."""
    names = [folder.resolve().name for folder in folders]
    return [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]


def _check_out(out: Path) -> None:
    """Raise InputError unless `out` is new, empty, or holds a report, which is written anew."""
    if out.exists() and not out.is_dir():
        raise InputError(str(out), "is a file", "give another --out")
    page = out / "index.html"
    if page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace"):
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(str(out), "is not empty and holds no report", "give another --out")
