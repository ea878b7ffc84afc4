"""`inherit`: a smaller checkpoint out of a model's weights."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inheritune import analysis, arch, inheritance, results
from inheritune import recipe as recipes
from inheritune.cli.options import (
    Calibration,
    Json,
    Prefix,
    Recovery,
    Revision,
    Tokenizer,
    Trust,
    reference_of,
    show_log,
)
from inheritune.cli.tables import show_inherited, show_plan
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch

_SHAPE = ("num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "hidden_size", "vocab_size")


def inherit(
    reference: Annotated[
        str, typer.Argument(help="A hub id, a folder with a Hugging Face checkpoint, or a .gguf file.")
    ],
    out: Annotated[Path | None, typer.Argument(help="The folder to write. Not needed with --show.")] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Blocks: a number, a fraction, half, all, or a list such as 0-11,24,25 (from 0). Default: half."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="In place of layers, heads and mlp: '80M parameters', '2 GB', or a fraction such as 0.5."),
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(help="In place of them, or beside size: '2x' the reference's speed of generation, '2x training'."),
    ] = None,
    shape: Annotated[
        str, typer.Option(help="With size or speed: auto compares shapes on --text; depth takes whole blocks.")
    ] = "auto",
    choose: Annotated[
        str,
        typer.Option(
            help="Which, when a number is given: first, last, middle, ends, every (k-th), stacked;"
            " or measured on --text or --data: auto, rank, influence, loss."
        ),
    ] = "first",
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="A file, folder, pattern or address with text: what blocks, units and tokens are chosen on, and the"
            " blocks are refitted on; repeatable."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A folder that `inheritune prepare` wrote: blocks are chosen on its training text."),
    ] = None,
    calibration: Calibration = "3072 tokens",
    recovery: Recovery = "1024 tokens",
    prefix: Prefix = "auto",
    submodules: Annotated[
        str,
        typer.Option(
            help="Whose weights: all, none, or some of attention,mlp,norms,final_norm,embeddings,head. The rest is new."
        ),
    ] = "all",
    heads: Annotated[str | None, typer.Option(help="Query heads of each block: a number or a fraction.")] = None,
    head_size: Annotated[str | None, typer.Option(help="Dimensions of each head: a number or a fraction.")] = None,
    mlp: Annotated[str | None, typer.Option(help="Neurons of each MLP: a number or a fraction.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Channels of the hidden states: a number or a fraction.")] = None,
    experts: Annotated[str | None, typer.Option(help="Experts of each mixture: a number or a fraction.")] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="Tokens: a number (32000), a fraction, or text: what --text needs.")
    ] = None,
    importance: Annotated[
        str,
        typer.Option(
            help="How heads, neurons, channels and experts are chosen: auto, error, activation, gradient, router (on"
            " --text), magnitude (weights alone), or first."
        ),
    ] = "auto",
    refit: Annotated[
        str,
        typer.Option(
            help="From how much of --text the blocks are fitted to stand in for what was dropped: a size, none, or"
            " auto: 8192 tokens where that can be done."
        ),
    ] = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or float64. Default: as stored.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the weights that are new.", min=0, max=2**63 - 1)] = 1,
    revision: Revision = None,
    tokenizer: Tokenizer = None,
    trust_remote_code: Trust = False,
    show: Annotated[bool, typer.Option("--show", help="Print the plan; no weights are read or written.")] = False,
    as_json: Json = False,
) -> None:
    """Write a smaller checkpoint made of some of a model's blocks; it is not trained."""
    source = reference_of(reference, tokenizer, revision, trust_remote_code)
    if out is None and not show:
        raise InputError("command line", "no folder to write", "name it behind the reference, or ask for --show")
    spec = inheritance.inherit_settings(
        layers, choose, submodules, size=size, speed=speed, shape=shape, calibration=calibration, recovery=recovery,
        heads=heads, head_size=head_size, mlp=mlp, hidden=hidden, experts=experts, vocabulary=vocabulary,
        importance=importance,
    )  # fmt: skip
    kind, selection, chosen = inheritance.as_dtype(dtype), None, None
    look = inheritance.calibration(text or (), refit, prefix)
    show_log()
    with ExitStack() as held:  # during the choice too, whose drops are kept beside the output
        folder = None if out is None or show else held.enter_context(inheritance.free_output(out))
        drops = None if folder is None else analysis.drops_beside(folder)
        if spec.choose in recipes.MEASURED and (text or data):
            where = {"text": text or (), "data": data, "prefix": prefix, "progress": drops}
            spec, selection, chosen = _measured(source, spec, look, where, show)
        elif data:
            what = f"--data does not go with --choose {choose}"
            raise InputError("command line", what, f"take {', '.join(recipes.MEASURED)}, or give text by --text")
        if folder is None:
            planned = inheritance.plan_for(source, spec)
            made = inheritance.Made(planned.target, planned.plan)
            matrices = inheritance.refitted_matrices(planned) if look.refit else []
        else:
            made = inheritance.write(
                source, spec, folder, dtype=kind, seed=seed, selection=selection, look=look, shape=chosen
            )
            if drops is not None:
                drops.unlink(missing_ok=True)
    figures = _figures(made, selection)
    if show:
        figures |= _provisional(made, spec, kind) | ({"refit": matrices} if look.refit else {})
    figures["model"] = None if show else str(out)
    if as_json:
        typer.echo(json.dumps(figures, indent=2 if show else None))
    else:
        (show_plan if show else show_inherited)(figures)


def _measured(
    source: "recipes.Reference",
    spec: "recipes.Inherit",
    look: "inheritance.Calibration",
    where: dict[str, Any],
    show: bool,
) -> "tuple[recipes.Inherit, results.BlockChoice, results.ShapeChoice | None]":  # fmt: skip
    """The settings with the blocks of a measured choice, and what was chosen; `where` is the text and its progress.

    With `show`, no shapes are compared.
    """
    asked, chosen = inheritance.with_budget(source, spec, look)
    selection = analysis.choose(source, asked, **where)
    if not spec.compares_shapes or show:
        return asked.model_copy(update={"layers": selection.blocks, "choose": "first"}), selection, chosen
    dropped = [one.block for one in selection.dropped]
    spec, chosen = inheritance.with_shape(source, spec, look, dropped=dropped)
    return spec, selection, chosen


def _figures(made: "inheritance.Made", selection: "results.BlockChoice | None") -> dict[str, Any]:
    """What was inherited, or would be."""
    config = {name: value for name in _SHAPE if (value := getattr(made.target.config, name, None)) is not None}
    found: dict[str, Any] = {
        "blocks": list(made.plan.kept), "of": made.plan.total, "parameters": arch.parameter_count(made.target),
        "tensors_fresh": len(made.plan.fresh), "config": config,
    }  # fmt: skip
    parts = {"selection": selection, "shape": made.shape}
    found |= {name: part.to_json() for name, part in parts.items() if part is not None}
    return found | ({"units": made.units.model_dump()} if made.units else {})


def _provisional(made: "inheritance.Made", spec: "recipes.Inherit", dtype: "torch.dtype | None") -> dict[str, Any]:
    """The plan, a row for each tensor, and whether making the model would choose other units, tokens or shapes."""
    rows = inheritance.plan_rows(made.plan, (dtype or made.target.dtype).itemsize)
    open_yet = spec.chooses_units or spec.has_budget or spec.vocabulary is not None
    return {"plan": rows, "dropped": list(made.plan.dropped), "is_provisional": open_yet}
