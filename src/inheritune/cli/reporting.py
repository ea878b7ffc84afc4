"""`inheritune report`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from inheritune.cli.options import Json, echo


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
    """Write the page of a run, a comparison or an analysis, or of several beside each other: HTML, Markdown, PNG."""
    from inheritune.report import kind_of, write_reports

    page = write_reports(folders, out)
    if as_json:
        kinds = [{"folder": str(folder), "kind": kind_of(folder)} for folder in folders]
        typer.echo(json.dumps({"page": str(page), "folders": kinds}, indent=2))
    else:
        echo(f"{page}: written")
