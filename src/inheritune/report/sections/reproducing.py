"""How to reproduce a run or a comparison."""

import shlex
from pathlib import Path

from inheritune.redaction import public
from inheritune.report.comparison import ComparisonFolder
from inheritune.report.markup import recipe_for_readers
from inheritune.report.page import Section, Table
from inheritune.report.run_folder import RunFolder
from inheritune.report.shown import Shown

PLACE = 99
_TITLE = "How to reproduce it"


def section(shown: Shown) -> Section:
    """Return commands, versions and settings, if the page shows one run or comparison only."""
    if (compared := shown.only(ComparisonFolder)) is not None:
        return _comparison(compared)
    run = shown.only(RunFolder)
    return Section(_TITLE) if run is None else _run(run)


def _comparison(compared: ComparisonFolder) -> Section:
    suite = compared.folder / "suite.yaml"
    text = recipe_for_readers(suite.read_text(encoding="utf-8")) if suite.is_file() else ""
    folded = [("The suite, with every default", text)] if text else []
    return Section(_TITLE, code=[("", "inheritune compare suite.yaml")], folded=folded)


def _run(run: RunFolder) -> Section:
    starts, tables, code = run.manifest.starts, [], []
    if starts:
        first = starts[0].given()
        facts = [[name, version] for name, version in starts[0].versions.items()]
        named = ("machine", "gpu", "device", "threads", "processes", "seed")
        facts += [[key, str(first[key])] for key in named if key in first]
        if run.manifest.lineage.revision:
            facts.append(["reference's revision", run.manifest.lineage.revision])
        tables.append(("", Table(["what", "was"], facts)))
        code.append(("It was started with", _command(starts[0].command)))
    again = "With the recipe below as recipe.yaml, the same on the same machine and versions:"
    code.append((again, "inheritune run recipe.yaml"))
    notes = [f"It was started {len(starts)} times; the first one is shown."] if len(starts) > 1 else []
    folded = [("The recipe, with every default", recipe_for_readers(run.recipe_text))]
    return Section(_TITLE, tables=tables, code=code, notes=notes, folded=folded)


def _command(words: list[str]) -> str:
    """The command as a person types it; its first word may be a file of this installation."""
    own = Path(words[0]).name in ("__main__.py", "inheritune")
    return shlex.join(public(["inheritune" if own else words[0], *words[1:]]))
