"""`inheritune analyze`."""

from pathlib import Path
from typing import Annotated

import typer

from inheritune import analysis
from inheritune import recipe as recipes
from inheritune.cli.options import (
    Calibration,
    Device,
    Dtype,
    Json,
    Prefix,
    Quiet,
    Recovery,
    Revision,
    Tokenizer,
    Trust,
    print_result,
    reference_of,
    show_log,
)
from inheritune.cli.tables import show_analysis
from inheritune.errors import InputError


def analyze(
    models: Annotated[
        list[str], typer.Argument(help="Hub ids, folders or .gguf files; several are shown beside each other.")
    ],
    text: Annotated[
        list[str] | None, typer.Option(help="A file, folder, pattern or address with text; repeatable.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder that `inheritune prepare` wrote; its validation text is taken.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to write: analysis.json, index.html, analysis.md, figures.")
    ] = None,
    sequences: Annotated[
        int, typer.Option(help="Sequences on which attention is measured, spread over the text.")
    ] = 100,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 100,
    tau: Annotated[
        str, typer.Option(help="Share of the squared norm that ranks hold; several with commas: 0.9,0.95.")
    ] = "0.9",
    loss_sequences: Annotated[int, typer.Option(help="How many of these sequences the losses are measured on.")] = 8,
    choose: Annotated[
        str | None, typer.Option(help="Also choose blocks of the first model: auto, rank, influence or loss.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="How many to choose: a number, a fraction, or half (the default).")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help='In place of layers, how large the model may be: "80M parameters", "2 GB", 0.5.'),
    ] = None,
    calibration: Calibration = "3072 tokens",
    recovery: Recovery = "1024 tokens",
    tokenizer: Tokenizer = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    micro_batch: Annotated[int, typer.Option(help="Sequences in one forward pass.", min=1)] = 8,
    prefix: Prefix = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See which heads and layers work: ranks of attention, what each block is worth, which blocks to inherit."""
    try:
        shares = [float(part) for part in tau.split(",")]
    except ValueError:
        raise InputError("--tau", f"got {tau!r}", "give numbers above 0 and below 1: 0.9, or 0.9,0.95") from None
    selection = None
    if choose is not None or layers is not None or size is not None:
        if choose not in (*recipes.MEASURED, None):
            raise InputError("--choose", f"got {choose!r}", f"legal are {', '.join(recipes.MEASURED)}")
        fields = {
            "layers": layers, "size": size, "choose": choose or "auto", "calibration": calibration,
            "recovery": recovery,
        }  # fmt: skip
        fields = {key: value for key, value in fields.items() if value is not None}
        selection = recipes.check(recipes.Inherit, fields, "command line")
    if quiet or not as_json:
        show_log(quiet)
    result = analysis.analyze(
        [reference_of(model, tokenizer, revision, trust_remote_code) for model in models], text=text or (), data=data,
        sequences=sequences, sequence_length=length, tau=shares, out=out, loss_sequences=loss_sequences,
        selection=selection, device=device, dtype=dtype, micro_batch=micro_batch, prefix=prefix,
    )  # fmt: skip
    print_result(result.to_json(), as_json, lambda: show_analysis(result, out))
