"""Folders of runs, comparisons and analyses, recognised by what is in them, and their pages."""

import os
from pathlib import Path

from inheritune.errors import DamagedFile, InputError
from inheritune.report.analysis import AnalysisFolder
from inheritune.report.comparison import ComparisonFolder
from inheritune.report.page import GENERATOR, write_folder
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Folder, Shown
from inheritune.results import Comparison, RunSummary

_KINDS: dict[str, tuple[type[Folder], tuple[str, ...]]] = {
    "run": (RunFolder, ("recipe.yaml",)),
    "comparison": (ComparisonFolder, ("comparison.json", "suite.yaml")),
    "analysis": (AnalysisFolder, ("analysis.json",)),
}
"""A folder is of the first kind of which it holds a file; pages show the kinds in this order."""


def kind_of(folder: Path) -> str:
    """What `folder` holds: a run, a comparison or an analysis. Raises InputError where it is none of them."""
    for kind, (_, names) in _KINDS.items():
        if any((folder / name).is_file() for name in names):
            return kind
    legal = ", ".join(f"{kind} ({' or '.join(names)})" for kind, (_, names) in _KINDS.items())
    what = f"holds none of these: {legal}" if folder.is_dir() else "is no folder"
    raise InputError(str(folder), what, "name folders that `inheritune run`, `compare` or `analyze` wrote")


def write_report(folder: Path, result: RunSummary | Comparison | None = None) -> Path:
    """Write the page of a run, comparison or analysis, finished or not, into its own place; returns the page's path.

    That place is report/, of an analysis the folder itself. `result` is given where its file is yet to be written.
    Raises InputError for another folder or a file of another version, DamagedFile where a file is damaged.
    """
    if isinstance(result, RunSummary):
        return _write_alone(RunFolder.read(folder, result))
    if isinstance(result, Comparison):
        return _write_alone(ComparisonFolder(folder, result))
    return _write_alone(_KINDS[kind_of(folder)][0].read(folder))


def _write_alone(shown: Folder, out: Path | None = None) -> Path:
    """Write the page of one folder into `out`, or into the place that is its own."""
    page = Shown([("", shown)]).page()
    if not isinstance(shown, AnalysisFolder):
        return write_folder(page, shown.folder / "report", out)
    return write_folder(page, shown.folder, out or shown.folder, "analysis.md")


def write_reports(folders: list[Path], out: Path | None = None) -> Path:
    """Write the page of one folder, or of several together; returns its path.

    Without `out`: of a run or a comparison its report/, of an analysis the folder itself, of several the folder
    `report`. Raises InputError for a folder that is none of these, named twice, or not readable, and for an `out` that
    holds something else than a report.
    """
    kinds = [kind_of(folder) for folder in folders]
    places = [folder.resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise InputError(str(folder), "is named twice", "name each folder once")
    if len(folders) > 1:
        out = out or Path("report")
    if out is not None:
        _check_out(out)
    try:
        read = [_KINDS[kind][0].read(folder) for folder, kind in zip(folders, kinds, strict=True)]
        if len(read) == 1:
            return _write_alone(read[0], out)
        names, order = [place.name for place in places], [kind for kind, _ in _KINDS.values()]
        # labels tell the folders apart: their last part, or the paths as they were given
        labels = [str(folder) if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]
        labelled = sorted(zip(labels, read, strict=True), key=lambda one: order.index(type(one[1])))
        assert out is not None
        return write_folder(Shown(labelled).page(), out, out)
    except (LookupError, TypeError, AttributeError, ZeroDivisionError) as error:  # a key that a page needs is missing
        if os.environ.get("INHERITUNE_DEBUG"):
            raise
        what = f"a file in it does not say what its page needs ({type(error).__name__}: {' '.join(str(error).split())})"
        remedy = "bring its files back as they were, or run what wrote them again"
        raise DamagedFile(", ".join(map(str, folders)), what, remedy) from None


def _check_out(out: Path) -> None:
    """Raise InputError unless `out` is new, empty, or holds a report, which is replaced."""
    if out.exists() and not out.is_dir():
        raise InputError(str(out), "is a file", "give another --out")
    page = out / "index.html"
    if page.is_file() and GENERATOR in page.read_text(encoding="utf-8", errors="replace"):
        return
    if out.exists() and any(out.iterdir()):
        raise InputError(str(out), "is not empty and holds no report", "give another --out")
