"""The command that compares arms."""

from pathlib import Path
from typing import Annotated

import typer

from inheritune import experiment, results
from inheritune import report as reports
from inheritune.cli.options import Json, Quiet, is_first_process, overrides, print_result, show_log
from inheritune.cli.tables import table_of
from inheritune.errors import RunError
from inheritune.runlog import PlainConsole


def compare(
    context: typer.Context,
    suite: Annotated[Path, typer.Argument(help="The suite, a YAML file; recipes/suites/ has those of the paper.")],
    out: Annotated[
        Path | None, typer.Option(help="The comparison's folder. Default: runs/ and the suite's file name.")
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option(help="Where text, references and teachers' outputs are kept for all. Default: OUT/../shared."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train several arms under one budget and show them side by side; the same command resumes the comparison."""
    checked = experiment.load_suite(suite, overrides(context.args))
    folder = out or Path("runs") / suite.stem
    show_log(quiet)
    compared = experiment.compare(checked, folder, shared=shared)
    print_result(compared.to_json(), as_json, lambda: show_comparison(compared, folder))
    failed = [arm.name for arm in compared.arms if arm.failures]
    if failed and is_first_process():
        raise RunError(
            str(folder),
            f"{len(failed)} of {len(compared.arms)} arms failed: {', '.join(failed)}",
            "see the errors in comparison.json; run it again, and only those are tried again",
        )


def show_comparison(compared: "results.Comparison", folder: Path) -> None:
    """The table, whole where the terminal is wide enough, and what its marks mean, on standard output."""
    console = PlainConsole()
    wide = table_of(*reports.comparison_table(compared))
    fits = console.measure(wide, options=console.options.update(max_width=1000)).maximum <= console.width
    console.print()
    console.print(wide if fits else table_of(*reports.comparison_table(compared, narrow=True), whole=slice(1, None)))
    console.print()
    for note in reports.notes_on(compared):
        console.print(note)
    console.print(f"\nfigures {folder / 'comparison.json'}", soft_wrap=True)
    console.print(f"report  {folder / 'report' / 'index.html'}", soft_wrap=True)
