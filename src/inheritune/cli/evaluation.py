"""`inheritune evaluate`, and the tables of what it finds."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from inheritune.cli.options import Json, Prefix, Quiet, Trust, echo, terminal_of
from inheritune.cli.tables import table_of
from inheritune.runtime import place_of_process

_HEADER = 12  # characters of a line of a model's name, at least
_JUDGED = ("val_loss", "bits_per_byte")


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Hub ids, folders, .gguf files, or a run's folder (its reference and its result, on its own text)."
        ),
    ],
    data: Annotated[
        Path | None, typer.Option(help="A folder that `inheritune prepare` wrote; its validation text is taken.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="A file, folder, pattern or address with text, all of it; repeatable.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Tasks of lm-evaluation-harness, with commas: names, NAME@5 (five shots), task files, and the groups"
            " inheritune-v1 and inheritune-v4."
        ),
    ] = None,
    tasks_folder: Annotated[Path | None, typer.Option(help="A folder with task files (.yaml) of your own.")] = None,
    trust_task_files: Annotated[
        bool, typer.Option(help="Read task files. They can run code: only for files that you trust.")
    ] = False,
    published: Annotated[bool, typer.Option("--published", help="Show the papers' figures beside.")] = False,
    sequence_length: Annotated[
        int | None,
        typer.Option(help="Predicted tokens a sequence. Default: 1024, or as many as all models can have.", min=1),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Ask only so many questions of each task: a trial, not its figure.", min=1)
    ] = None,
    micro_batch: Annotated[int, typer.Option(help="Sequences or questions that pass at once.", min=1)] = 8,
    attention: Annotated[
        str | None, typer.Option(help="sequence (the default), or document: attention stays inside documents.")
    ] = None,
    prefix: Prefix = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16. auto: float32, on a GPU bfloat16.")] = "auto",
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is, if not with the model.")] = None,
    revision: Annotated[str | None, typer.Option(help="The hub revision: a branch, tag or commit.")] = None,
    trust_remote_code: Trust = False,
    out: Annotated[Path | None, typer.Option(help="The folder to write: evaluation.json.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge models side by side: validation loss, perplexity, bits per byte, tasks of lm-evaluation-harness."""
    from inheritune.errors import InputError
    from inheritune.recipe import Reference, check

    common = {"tokenizer": tokenizer, "revision": revision, "trust_remote_code": trust_remote_code}
    given: list[Any] = list(models)
    if any(common.values()):
        given = [check(Reference, {"path": model, **common}, "command line") for model in models]
    names = [name.strip() for name in tasks.split(",") if name.strip()] if tasks is not None else []
    if tasks is not None and not names:
        raise InputError("--tasks", "names none", "name some, with commas between them")

    from inheritune import evaluation

    found = evaluation.evaluate(
        given, data, sequence_length, text=text or (), tasks=names, tasks_folder=tasks_folder,
        trust_task_files=trust_task_files, published=published, limit=limit, device=device, dtype=dtype,
        attention=attention, prefix=prefix, micro_batch=micro_batch, out=out, say=terminal_of(quiet or as_json).say,
    )  # fmt: skip
    if place_of_process()[0] > 0:
        return
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show_evaluation(found)
        if out is not None:
            echo(f"\nfigures {out / 'evaluation.json'}")


def show_evaluation(found: dict[str, Any]) -> None:
    """Losses and tasks of the models, as tables on standard output."""
    if found["text"] is not None:
        _show_losses(found)
    if found["harness"] is not None:
        show_tasks(found)


def _show_losses(found: dict[str, Any]) -> None:
    from inheritune.report import short, with_error
    from inheritune.runlog import PlainConsole

    console, text = PlainConsole(), found["text"]
    known = "" if text["bytes"] is None else f", {text['bytes']:,} bytes"
    console.print(f"\n{text['source']}: sequences of {text['sequence_length']} tokens{known}", soft_wrap=True)
    rows = []
    for model in found["models"]:
        loss, bits = (with_error(model[key], model[f"{key}_se"]) if model[key] is not None else "-" for key in _JUDGED)
        perplexity = "-" if model["perplexity"] is None else f"{model['perplexity']:,.4g}"
        size = [str(model["layers"]), short(model["parameters"])]
        rows.append([model["name"], *size, loss, perplexity, bits])
    shown = table_of(["model", "blocks", "param.", "loss", "perplexity", "bits per byte"], rows)
    for column in shown.columns[1:]:
        column.no_wrap = True
    console.print(shown)


def show_tasks(found: dict[str, Any]) -> None:
    """A row for each task, a column for each model and each published row, on standard output.

    Models that the terminal has no room for come in further tables.
    """
    from inheritune.report import with_error
    from inheritune.runlog import PlainConsole

    console = PlainConsole()
    shown = [(model["name"], model["tasks"]) for model in found["models"]]
    shown += [(f"{row['name']} (published)", row["tasks"]) for row in found["published"]]
    names = list(dict.fromkeys(name for _, tasks in shown for name in tasks))
    kinds = [next(tasks[name] for _, tasks in shown if name in tasks) for name in names]
    asked = [
        ["task", *(name.removesuffix(f":{kind['metric']}") for name, kind in zip(names, kinds, strict=True))],
        ["metric", *(kind["metric"] for kind in kinds)],
        ["shots", *(str(kind["shots"]) for kind in kinds)],
    ]
    columns = []
    for title, tasks in shown:
        figures = [tasks.get(name) for name in names]
        cells = ["-" if one is None else with_error(one["value"], one["se"]) for one in figures]
        columns.append(["\n".join(textwrap.wrap(title, max(_HEADER, *map(len, cells)))), *cells])
    console.print(f"\ntasks of lm-eval {found['harness']['version']}, with their standard errors")
    for number, part in enumerate(_fitting(columns, console.width - _width(asked))):
        if number:
            console.print()
        header, *rows = zip(*asked, *part, strict=True)
        table = table_of(header, rows)
        for column in table.columns:
            column.no_wrap = True
        console.print(table)
    for line in _notes(found):
        console.print(line, soft_wrap=True)


def _fitting(columns: Sequence[list[str]], room: int) -> list[list[list[str]]]:
    """The columns in parts that have room beside each other, at least one in each."""
    parts: list[list[list[str]]] = [[]]
    for column in columns:
        if parts[-1] and _width([*parts[-1], column]) > room:
            parts.append([])
        parts[-1].append(column)
    return parts


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(2 + max(len(line) for cell in column for line in cell.split("\n")) for column in columns)


def _notes(found: dict[str, Any]) -> list[str]:
    from inheritune.report import start_note

    harness, lines = found["harness"], []
    if harness["limit"] is not None:
        lines.append(f"The first {harness['limit']} questions of each task: a trial, not the tasks' figures.")
    if harness["own"]:
        lines.append(f"From task files of your own: {', '.join(harness['own'])}.")
    if note := start_note(found["models"]):
        lines.append(note)
    if harness["pinned"] not in (None, harness["version"]):
        lines.append(
            f"The groups are made for lm-eval {harness['pinned']}; with {harness['version']} their figures may differ."
        )
    if found["published"]:
        sources = ", ".join(dict.fromkeys(row["source"] for row in found["published"]))
        lines.append(f"Published: as {sources} gives it, of another harness and without standard errors.")
    return lines
