"""`inheritune report`."""

from pathlib import Path
from typing import Annotated

import typer

from inheritune import report as reports
from inheritune.cli.options import Json, echo, print_result


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of runs, comparisons or analyses, finished or not; several make one page."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write. Default: report/ in a run or a comparison, an analysis' own folder, and of"
            " several together ./report."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the page of a run, a comparison or an analysis, or of several side by side: HTML, Markdown, PNG."""
    page = reports.write_reports(folders, out)
    kinds = [{"folder": str(folder), "kind": reports.kind_of(folder)} for folder in folders]
    print_result({"page": str(page), "folders": kinds}, as_json, lambda: echo(f"{page}: written"))
