"""What a page shows: one folder alone, or several side by side, each with a label."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from inheritune.report import sections
from inheritune.report.analysis import AnalysisFolder, labelled, verdicts_of
from inheritune.report.comparison import ComparisonFolder
from inheritune.report.curves import Curves
from inheritune.report.page import Page, Table
from inheritune.report.run_folder import RunFolder
from inheritune.results import Analysis, AnalyzedModel

Folder = RunFolder | ComparisonFolder | AnalysisFolder
Kind = TypeVar("Kind", RunFolder, ComparisonFolder, AnalysisFolder)

PAIR = ("reference", "target")
"""The names of the two models of a run, in their order in its files."""


@dataclass(frozen=True)
class Shown:
    """Folders with their labels; the label of one that is shown alone is empty."""

    folders: list[tuple[str, Folder]]

    def only(self, kind: type[Kind]) -> Kind | None:
        """The folder that is shown alone, if it is of this kind."""
        alone = self.folders[0][1] if len(self.folders) == 1 else None
        return alone if isinstance(alone, kind) else None

    def every(self, kind: type[Kind]) -> list[tuple[str, Kind]]:
        """All folders of this kind, with their labels."""
        return [(label, one) for label, one in self.folders if isinstance(one, kind)]

    @cached_property
    def analyses(self) -> list[tuple[str, Analysis]]:
        """The analyses that are named, then those in the runs' folders, with their models called as runs call them."""
        named = [(label, one.analysis) for label, one in self.every(AnalysisFolder)]
        of_runs = []
        for label, run in self.every(RunFolder):
            if run.analysis is not None:
                pairs = zip(run.analysis.models, PAIR, strict=False)
                models = [model.model_copy(update={"name": name}) for model, name in pairs]
                of_runs.append((label, run.analysis.model_copy(update={"models": models})))
        return [*named, *of_runs]

    @cached_property
    def models(self) -> list[AnalyzedModel]:
        """The models of all analyses, with different names."""
        return [model for label, analysis in self.analyses for model in labelled(analysis.models, prefix(label))]

    @property
    def curves(self) -> Curves:
        """The curves of all folders, on common axes."""
        trained = [(label, one) for label, one in self.folders if not isinstance(one, AnalysisFolder)]
        parts = [one.curves(prefix(label)) for label, one in trained]
        levels = {name: level for part in parts for name, level in part.levels.items()}
        return Curves([curve for part in parts for curve in part.curves], levels)

    def page(self) -> Page:
        """The page: verdicts, then every module of `sections` in the order of its PLACE."""
        modules = [import_module(f"{sections.__name__}.{one.name}") for one in iter_modules(sections.__path__)]
        parts = [module.section(self) for module in sorted(modules, key=lambda module: module.PLACE)]
        if len(self.folders) == 1:
            alone = self.folders[0][1]
            return Page(alone.title, alone.verdicts, parts)
        judged = [(label, one) for label, one in self.folders if not isinstance(one, AnalysisFolder)]
        verdicts = [(colour, prefix(label) + text) for label, one in judged for colour, text in one.verdicts]
        named = sum(len(one.analysis.models) for _, one in self.every(AnalysisFolder))
        verdicts += verdicts_of(self.models)[:named]  # models of runs have none beside their run's
        return Page(f"Side by side: {', '.join(label for label, _ in self.folders)}", verdicts, parts)


def prefix(label: str) -> str:
    """The beginning of a name that belongs to the folder with this label."""
    return f"{label}: " if label else ""


def stacked(tables: Sequence[tuple[str, Table]]) -> Table:
    """One table with all rows and columns; each row's name begins with its table's label."""
    header = list(dict.fromkeys(name for _, table in tables for name in table.header))
    rows = [
        dict(zip(table.header, [prefix(label) + row[0], *row[1:]], strict=True))
        for label, table in tables
        for row in table.rows
    ]
    return Table.of(header, rows)
