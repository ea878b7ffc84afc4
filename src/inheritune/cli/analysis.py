"""`inheritune analyze`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from inheritune.cli.options import Calibration, Json, Prefix, Quiet, Recovery, Trust, terminal_of


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
        int, typer.Option(help="Sequences that attention is looked at on, spread over the text.")
    ] = 100,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 100,
    tau: Annotated[
        str, typer.Option(help="Share of the squared norm that ranks hold; several with commas: 0.9,0.95.")
    ] = "0.9",
    loss_sequences: Annotated[int, typer.Option(help="Of these sequences, so many for the losses.")] = 8,
    choose: Annotated[
        str | None, typer.Option(help="Also choose blocks of the first model: auto, rank, influence or loss.")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help='How many to choose: a number, a fraction, half, "80M parameters", "2 GB".')
    ] = None,
    calibration: Calibration = "3072 tokens",
    recovery: Recovery = "1024 tokens",
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is, if not with the model.")] = None,
    revision: Annotated[str | None, typer.Option(help="The hub revision: a branch, tag or commit.")] = None,
    trust_remote_code: Trust = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16. auto: float32, on a GPU bfloat16.")] = "auto",
    micro_batch: Annotated[int, typer.Option(help="Sequences that pass at once.", min=1)] = 8,
    prefix: Prefix = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See which heads and layers work: ranks of attention, what each block is worth, which blocks to inherit."""
    from inheritune.errors import InputError
    from inheritune.recipe import MEASURED, Inherit, Reference, check

    shares = _shares(tau)
    selection = None
    if choose is not None or layers is not None:
        if choose not in (*MEASURED, None):
            raise InputError("--choose", f"got {choose!r}", f"legal are {', '.join(MEASURED)}")
        fields = {
            "layers": layers or "half", "choose": choose or "auto", "calibration": calibration, "recovery": recovery,
        }  # fmt: skip
        selection = check(Inherit, fields, "command line")
    common = {"tokenizer": tokenizer, "revision": revision, "trust_remote_code": trust_remote_code}
    references = [check(Reference, {"path": model, **common}, "command line") for model in models]

    from inheritune import analysis
    from inheritune.cli.tables import show_analysis

    result = analysis.analyze(
        references, text=text or (), data=data, sequences=sequences, sequence_length=length, tau=shares, out=out,
        loss_sequences=loss_sequences, selection=selection, device=device, dtype=dtype, micro_batch=micro_batch,
        prefix=prefix, say=terminal_of(quiet or as_json).say,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        show_analysis(result, out)


def _shares(tau: str) -> list[float]:
    from inheritune.errors import InputError

    try:
        return [float(part) for part in tau.split(",")]
    except ValueError:
        raise InputError("--tau", f"got {tau!r}", "give numbers above 0 and below 1: 0.9, or 0.9,0.95") from None
