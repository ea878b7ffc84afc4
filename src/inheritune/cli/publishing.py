"""The command that uploads a model."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from inheritune import card
from inheritune.cli.options import Json, Quiet, echo
from inheritune.cli.tables import table_of
from inheritune.runlog import PlainConsole


def push(
    model: Annotated[
        Path, typer.Argument(metavar="RUN_OR_MODEL", help="A finished run's folder, a training's, or a model's.")
    ],
    repo_id: Annotated[
        str, typer.Argument(metavar="REPO_ID", help="A repository of the Hugging Face hub: OWNER/NAME.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private; one that is public already is refused.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="The branch; made if it does not exist. Default: main.")] = None,
    really: Annotated[
        bool, typer.Option("--really/--dry-run", help="Upload; without it, only show what would be uploaded.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a model with its card to the Hugging Face hub; a dry run unless --really is given.

    The token comes from HF_TOKEN or from the hub's own login (`hf auth login`). It is neither shown nor stored.
    """
    planned = card.prepare_upload(model, repo_id, private=private, revision=revision)
    facts: dict[str, Any] = {
        "folder": str(planned.folder),
        "repository": planned.repo_id,
        "visibility": "private" if planned.private else "public",
        "revision": planned.revision or "main",
        "dry_run": not really,
        "files": [{"name": name, "bytes": size} for name, size in planned.files],
        "bytes": sum(size for _, size in planned.files),
        "card": planned.card,
        "token_from": card.token_source(),
        "notes": list(planned.notes),
    }
    if not as_json and not quiet:
        _show(facts)
    if really:
        if quiet or as_json or not sys.stderr.isatty():
            from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

            disable_progress_bars()
        facts["commit"] = card.upload(planned)
        if not as_json:
            echo(f"uploaded: {facts['commit']}")
    elif not as_json and not quiet:
        echo("\nNothing was uploaded. Upload it with --really.")
    if as_json:
        typer.echo(json.dumps(facts, indent=2))


def _show(facts: dict[str, Any]) -> None:
    console = PlainConsole()
    public = facts["visibility"] == "public"
    visibility = "public (if it is made; one that is there keeps its own)" if public else "private"
    console.print(f"from        {facts['folder']}")
    console.print(f"to          {facts['repository']}, revision {facts['revision']}, {visibility}")
    console.print(f"token       {facts['token_from'] or 'none: set HF_TOKEN, or log in with `hf auth login`'}")
    console.print()
    rows = [[file["name"], _size(file["bytes"])] for file in facts["files"]]
    console.print(table_of(["file", "size"], [*rows, ["all", _size(facts["bytes"])]]))
    console.print()
    console.print("card        " + ("none" if not facts["card"] else ""))
    for key, value in facts["card"].items():
        console.print(f"  {key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    for note in facts["notes"]:
        console.print(f"\nwarning: {note}")


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
