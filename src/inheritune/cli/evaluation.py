"""`inheritune evaluate`, and the tables of its result."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from inheritune import evaluation, results
from inheritune import report as reports
from inheritune.cli.options import (
    Device,
    Dtype,
    Json,
    Prefix,
    Quiet,
    Revision,
    Tokenizer,
    Trust,
    echo,
    print_result,
    reference_of,
    show_log,
)
from inheritune.cli.tables import table_of
from inheritune.errors import InputError
from inheritune.runlog import PlainConsole

_HEADER = 12  # the fewest characters of a line of a model's name


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
    chat: Annotated[
        bool, typer.Option("--chat", help="Judge text as a user's message, in each model's chat template.")
    ] = False,
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
    published: Annotated[bool, typer.Option("--published", help="Show the papers' figures too.")] = False,
    sequence_length: Annotated[
        int | None,
        typer.Option(help="Predicted tokens a sequence. Default: 1024, or as many as all models can have.", min=1),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Ask only this many questions of each task: a trial, not its figure.", min=1),
    ] = None,
    micro_batch: Annotated[int, typer.Option(help="Sequences or questions in one forward pass.", min=1)] = 8,
    attention: Annotated[
        str | None, typer.Option(help="sequence (the default), or document: attention stays inside documents.")
    ] = None,
    prefix: Prefix = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    tokenizer: Tokenizer = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    out: Annotated[Path | None, typer.Option(help="The folder to write: evaluation.json.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Judge models side by side: validation loss, perplexity, bits per byte, tasks of lm-evaluation-harness."""
    has_options = tokenizer is not None or revision is not None or trust_remote_code
    names = [name.strip() for name in tasks.split(",") if name.strip()] if tasks is not None else []
    if tasks is not None and not names:
        raise InputError("--tasks", "names none", "name some, with commas between them")
    if quiet or not as_json:
        show_log(quiet)
    result = evaluation.evaluate(
        [reference_of(model, tokenizer, revision, trust_remote_code) if has_options else model for model in models],
        data, sequence_length, text=text or (), tasks=names, tasks_folder=tasks_folder,
        trust_task_files=trust_task_files, published=published, chat=chat, limit=limit, device=device, dtype=dtype,
        attention=attention, prefix=prefix, micro_batch=micro_batch, out=out,
    )  # fmt: skip
    print_result(result.to_json(), as_json, lambda: show_evaluation(result, out))


def show_evaluation(result: "results.EvaluationResult", out: Path | None) -> None:
    """Losses and tasks of the models, as tables on standard output, and where they were written."""
    if result.text is not None:
        _show_losses(result.models, result.text)
    if result.harness is not None:
        show_tasks(result)
    if out is not None:
        echo(f"\nfigures {out / 'evaluation.json'}")


def _show_losses(models: "Sequence[results.EvaluatedModel]", text: "results.EvaluatedText") -> None:
    console = PlainConsole()
    known = [] if text.documents is None else [reports.many(text.documents, "document")]
    known += [] if text.bytes is None else [f"{text.bytes:,} bytes"]
    known += [] if text.counted is None else [f"counted: {text.counted}"]
    facts = ", ".join([f"sequences of {text.sequence_length} tokens", *known])
    console.print(f"\n{text.source}: {facts}", soft_wrap=True)
    rows = []
    for model in models:
        pairs = ((model.val_loss, model.val_loss_se), (model.bits_per_byte, model.bits_per_byte_se))
        loss, bits = ("-" if value is None else reports.with_error(value, error) for value, error in pairs)
        perplexity = "-" if model.perplexity is None else f"{model.perplexity:,.4g}"
        rows.append([model.name, str(model.layers), reports.short(model.parameters), loss, perplexity, bits])
    names = ["model", "blocks", "param.", "loss", "perplexity", "bits per byte"]
    console.print(table_of(names, rows, whole=slice(1, None)))


def show_tasks(result: "results.EvaluationResult") -> None:
    """A row for each task, a column for each model and each published row, on standard output.

    Models that the terminal has no room for are shown in further tables.
    """
    assert result.harness is not None
    console = PlainConsole()
    shown = [(model.name, model.tasks) for model in result.models]
    shown += [(f"{row.name} (published)", row.tasks) for row in result.published]
    kinds = {name: score for _, tasks in reversed(shown) for name, score in tasks.items()}
    names = list(dict.fromkeys(name for _, tasks in shown for name in tasks))
    asked = [
        ["task", *(name.removesuffix(f":{kinds[name].metric}") for name in names)],
        ["metric", *(kinds[name].metric for name in names)],
        ["shots", *(str(kinds[name].shots) for name in names)],
    ]
    columns = []
    for title, tasks in shown:
        scores = [tasks.get(name) for name in names]
        cells = ["-" if one is None else reports.with_error(one.value, one.se) for one in scores]
        columns.append(["\n".join(textwrap.wrap(title, max(_HEADER, *map(len, cells)))), *cells])
    console.print(f"\ntasks of lm-eval {result.harness.version}, with their standard errors")
    for number, part in enumerate(_fitting(columns, console.width - _width(asked))):
        if number:
            console.print()
        header, *rows = zip(*asked, *part, strict=True)
        console.print(table_of(header, rows, whole=slice(None)))
    for line in _notes(result, result.harness):
        console.print(line, soft_wrap=True)


def _fitting(columns: Sequence[list[str]], room: int) -> list[list[list[str]]]:
    """The columns in groups that fit into `room` characters, at least one column in each."""
    parts: list[list[list[str]]] = [[]]
    for column in columns:
        if parts[-1] and _width([*parts[-1], column]) > room:
            parts.append([])
        parts[-1].append(column)
    return parts


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(2 + max(len(line) for cell in column for line in cell.split("\n")) for column in columns)


def _notes(result: "results.EvaluationResult", harness: "results.Harness") -> list[str]:
    lines = []
    if harness.limit is not None:
        lines.append(f"The first {harness.limit} questions of each task: a trial, not the tasks' figures.")
    if harness.own:
        lines.append(f"From task files of your own: {', '.join(harness.own)}.")
    if note := reports.start_note(result.models):
        lines.append(note)
    if harness.pinned not in (None, harness.version):
        lines.append(
            f"The groups are made for lm-eval {harness.pinned}; with {harness.version} their figures may differ."
        )
    if result.published:
        sources = ", ".join(dict.fromkeys(row.source for row in result.published))
        lines.append(f"Published: as {sources} gives it, of another harness and without standard errors.")
    return lines
