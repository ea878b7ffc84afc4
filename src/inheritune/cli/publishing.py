"""The command that uploads a model."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inheritune.cli.options import Json, Quiet, echo

if TYPE_CHECKING:
    from inheritune.card import Upload


def push(
    model: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="A finished run's folder, a training's, or a model's.")
    ],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="Where to on the Hugging Face hub: OWNER/NAME.")],
    private: Annotated[
        bool, typer.Option("--private", help="A repository that is made is private; one that is public is refused.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; made where there is none. Default: main.")] = None,
    really: Annotated[
        bool, typer.Option("--really/--dry-run", help="Upload; without it, only say what would be uploaded.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a model with its card to the Hugging Face hub; a dry run unless --really is given.

    The token is taken from HF_TOKEN or from the hub's own login (`hf auth login`), and shown and kept nowhere.
    """
    from inheritune.card import prepare_upload, token_source, upload

    wanted = prepare_upload(model, repo_id, private=private, revision=revision)
    planned = _figures(wanted, token_source(), really)
    if not as_json and not quiet:
        _show(planned)
    if really:
        if quiet or as_json or not sys.stderr.isatty():
            from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

            disable_progress_bars()
        planned["commit"] = upload(wanted, lambda text: echo(f"warning: {text}", err=True))
        if not as_json:
            echo(f"uploaded: {planned['commit']}")
    elif not as_json and not quiet:
        echo("\nNothing was uploaded. Upload it with --really.")
    if as_json:
        typer.echo(json.dumps(planned, indent=2))


def _figures(wanted: "Upload", token: str | None, really: bool) -> dict[str, Any]:
    return {
        "folder": str(wanted.folder),
        "repository": wanted.repo_id,
        "visibility": "private" if wanted.private else "public",
        "revision": wanted.revision or "main",
        "dry_run": not really,
        "files": [{"name": name, "bytes": size} for name, size in wanted.files],
        "bytes": wanted.total,
        "card": wanted.card,
        "token_from": token,
        "notes": list(wanted.notes),
    }


def _show(planned: dict[str, Any]) -> None:
    from inheritune.cli.tables import table_of
    from inheritune.runlog import PlainConsole

    console = PlainConsole()

    visibility = planned["visibility"]
    if visibility == "public":
        visibility += " (if it is made; one that is there keeps its own)"
    console.print(f"from        {planned['folder']}")
    console.print(f"to          {planned['repository']}, revision {planned['revision']}, {visibility}")
    console.print(f"token       {planned['token_from'] or 'none: set HF_TOKEN, or log in with `hf auth login`'}")
    console.print()
    rows = [[file["name"], _size(file["bytes"])] for file in planned["files"]]
    console.print(table_of(["file", "size"], [*rows, ["all", _size(planned["bytes"])]]))
    console.print()
    console.print("card        " + ("none" if not planned["card"] else ""))
    for key, value in planned["card"].items():
        console.print(f"  {key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    for note in planned["notes"]:
        console.print(f"\nwarning: {note}")


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
