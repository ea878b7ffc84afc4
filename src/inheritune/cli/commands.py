"""The commands. Each checks its words, calls one function, and shows what came out."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from inheritune import __version__
from inheritune.cli.analysis import analyze
from inheritune.cli.comparison import compare
from inheritune.cli.evaluation import evaluate, show_tasks
from inheritune.cli.options import (
    DOTTED,
    Calibration,
    DryRun,
    Json,
    Prefix,
    Quiet,
    Recovery,
    Trust,
    echo,
    overrides,
    terminal_of,
)
from inheritune.cli.planning import plan
from inheritune.cli.preparation import prepare
from inheritune.cli.publishing import push
from inheritune.cli.reporting import report
from inheritune.cli.tables import show_bench, show_inherited, show_plan, show_summary, show_trial
from inheritune.runtime import place_of_process

app = typer.Typer(
    name="inheritune",
    help="Make a smaller language model out of a larger one: inherit its blocks, train briefly, grow until it matches.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"inheritune {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(
    context_settings=DOTTED,
    epilog='Any key of the recipe can be overridden: --train.length="2 epochs" --seed=2',
)
def run(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. Default: runs/ and the recipe's file name.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry out a whole recipe; run again, it goes on where it stopped."""
    from inheritune.recipe import load_recipe
    from inheritune.results import EvaluationResult

    checked = load_recipe(recipe, overrides(context.args))
    folder = out or Path("runs") / recipe.stem

    from inheritune import experiment

    if dry_run:
        show_trial(experiment.dry_run(checked), as_json)
        return
    summary = experiment.run(checked, folder, terminal_of(quiet))
    if place_of_process()[0] > 0:
        return
    if as_json:
        typer.echo(json.dumps(summary.to_json(), indent=2))
    else:
        show_summary(summary, folder)
        if checked.evaluate.tasks:
            show_tasks(EvaluationResult.read(folder / experiment.TASKS_FILE))


app.command(context_settings=DOTTED, epilog="Any key of the recipe can be overridden: --inherit.layers=10")(plan)


@app.command()
def new(
    reference: Annotated[
        str, typer.Argument(help="A hub id, a folder with a Hugging Face checkpoint, or a .gguf file.")
    ],
    out: Annotated[
        Path | None, typer.Argument(help="The recipe to write. Default: the model's name with .yaml.")
    ] = None,
) -> None:
    """Write a commented starter recipe for a model."""
    from inheritune.experiment import starter_recipe
    from inheritune.inheritance import check_free
    from inheritune.runlog import write_text

    file = out or Path(f"{Path(reference).stem if reference.endswith('.gguf') else Path(reference).name}.yaml".lower())
    check_free(file)
    write_text(file, starter_recipe(reference))
    echo(f"{file}: written. Set data.sources to your text, then: inheritune run {file}")


app.command(
    context_settings=DOTTED, epilog="Any key of the recipe's data can be set: --data.filters='[gopher_quality]'"
)(prepare)
app.command(context_settings=DOTTED, epilog='Any key of the suite can be set: --train.length="2 epochs"')(compare)


app.command()(analyze)
app.command()(evaluate)
app.command()(push)
app.command()(report)


@app.command()
def inherit(
    reference: Annotated[
        str, typer.Argument(help="A hub id, a folder with a Hugging Face checkpoint, or a .gguf file.")
    ],
    out: Annotated[Path | None, typer.Argument(help="The folder to write. Not needed with --show.")] = None,
    layers: Annotated[
        str, typer.Option(help="Blocks: a number, a fraction, half, all, or a list such as 0-11,24,25 (from 0).")
    ] = "half",
    choose: Annotated[
        str,
        typer.Option(
            help="Which, when a number is given: first, last, middle, ends, every (k-th), stacked;"
            " or measured on --text or --data: auto, rank, influence, loss."
        ),
    ] = "first",
    text: Annotated[
        list[str] | None, typer.Option(help="A file, folder, pattern or address with text to choose on; repeatable.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A folder that `inheritune prepare` wrote; its training text is taken.")
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
    width: Annotated[str, typer.Option(help="full, or half: half of the heads, hidden size and MLP.")] = "full",
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16 or float64. Default: as stored.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the weights that are new.", min=0, max=2**63 - 1)] = 1,
    revision: Annotated[str | None, typer.Option(help="The hub revision: a branch, tag or commit.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is, if not with the model.")] = None,
    trust_remote_code: Trust = False,
    show: Annotated[bool, typer.Option("--show", help="Print the plan; read and write no weights.")] = False,
    as_json: Json = False,
) -> None:
    """Write a smaller checkpoint made of some of a model's blocks; it is not trained."""
    from inheritune.errors import InputError
    from inheritune.recipe import MEASURED, Reference, check

    fields = {"path": reference, "revision": revision, "tokenizer": tokenizer, "trust_remote_code": trust_remote_code}
    origin = check(Reference, fields, "command line")
    if out is None and not show:
        raise InputError("command line", "no folder to write", "name it behind the reference, or ask for --show")

    from inheritune import inheritance
    from inheritune.arch import parameter_count

    spec = inheritance.inherit_settings(layers, choose, submodules, width, calibration=calibration, recovery=recovery)
    kind, selection, drops = inheritance.as_dtype(dtype), None, None
    with ExitStack() as held:  # over the choice too, whose drops are kept beside the output
        goal = None if out is None or show else held.enter_context(inheritance.free_output(out))
        if spec.choose in MEASURED and (text or data):
            from inheritune import analysis

            drops = None if goal is None else analysis.drops_beside(goal)
            selection = analysis.choose(
                origin, spec, text=text or (), data=data, prefix=prefix, progress=drops,
                say=lambda line: echo(line, err=True),
            )  # fmt: skip
            spec = spec.model_copy(update={"layers": selection.blocks, "choose": "first"})
        elif text or data:
            raise InputError("command line", f"text does not go with --choose {choose}", f"take {', '.join(MEASURED)}")
        if goal is None:
            made = inheritance.plan_for(origin, spec)
        else:
            made = inheritance.write(
                origin, spec, goal, dtype=kind, seed=seed, say=lambda text: echo(text, err=True), selection=selection
            )
            if drops is not None:
                drops.unlink(missing_ok=True)
    found: dict[str, Any] = {
        "model": None if show else str(out),
        "blocks": list(made.plan.kept),
        "of": made.plan.total,
        "parameters": parameter_count(made.target),
        "tensors_fresh": len(made.plan.fresh),
    } | ({"selection": selection.to_json()} if selection else {})
    if show:
        rows = inheritance.plan_rows(made.plan, (kind or made.target.dtype).itemsize)
        found |= {"plan": rows, "dropped": list(made.plan.dropped)}
    if as_json:
        typer.echo(json.dumps(found, indent=2 if show else None))
    else:
        (show_plan if show else show_inherited)(found)


@app.command(
    context_settings=DOTTED,
    epilog='Any key of a recipe\'s train: --optimizer.learning_rate=1e-4 --schedule.warm_up="100 steps"',
)
def train(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model to train: a folder, hub id or .gguf file.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; given again, an interrupted training goes on.")],
    data: Annotated[Path, typer.Option(help="A folder that `inheritune prepare` wrote.")],
    length: Annotated[str, typer.Option(help='How long: "10M tokens", "2 epochs", "500 steps".')],
    batch: Annotated[str, typer.Option(help="What one optimizer step sees: sequences or tokens.")] = "64 sequences",
    sequence_length: Annotated[int, typer.Option(help="Predicted tokens a sequence.")] = 1024,
    prefix: Prefix = "auto",
    evaluate_every: Annotated[str, typer.Option(help="How often a validation loss is taken.")] = "100 steps",
    seed: Annotated[int, typer.Option(help="Decides the order of sequences and dropout.", min=0, max=2**31 - 1)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    track: Annotated[
        list[str] | None, typer.Option(help="Show the curves in tensorboard, wandb or trackio; repeatable.")
    ] = None,
    parallel: Annotated[
        str, typer.Option(help="How torchrun's processes share the model: auto, ddp or fsdp.")
    ] = "auto",
    timeout: Annotated[str, typer.Option(help="How long a process waits for another one.")] = "10 minutes",
    teacher: Annotated[
        str | None, typer.Option(help="Learn from this model too: a folder, hub id or .gguf file; see distillation.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one model on prepared data, and judge it."""
    from inheritune.recipe import Evaluate, Hardware, Training, check, model_at, override

    tree: dict[str, Any] = {"length": length, "batch": batch, "sequence_length": sequence_length}
    if teacher is not None:
        tree["distillation"] = {}
    settings = check(Training, override(tree, overrides(context.args)), "command line: train")
    evaluate = check(Evaluate, {"every": evaluate_every}, "command line: evaluate")
    hardware = check(Hardware, {"parallel": parallel, "timeout": timeout}, "command line")
    if dry_run:
        from inheritune import experiment, runtime
        from inheritune.arch import load_config
        from inheritune.recipe import model_at

        place = runtime.start(device, timeout_minutes=hardware.timeout.amount)
        taught = None if teacher is None else load_config(model_at(teacher))
        show_trial(experiment.try_step(load_config(model_at(model)), settings, place, taught), as_json)
        return

    from inheritune import experiment

    _, result = experiment.train(
        model,
        data,
        out,
        settings=settings,
        evaluate=evaluate,
        seed=seed,
        device=device,
        parallel=hardware.parallel,
        timeout=hardware.timeout.amount,
        terminal=terminal_of(quiet),
        track=track or (),
        teacher=teacher,
        prefix=prefix,
    )
    if place_of_process()[0] > 0:
        return
    found = {key: value for key, value in result.to_json().items() if key != "sequence_losses"}
    found["model"] = str(out / "model")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        error = "" if found["val_loss_se"] is None else f" ± {found['val_loss_se']:.4f}"
        echo(f"{out / 'model'}: {found['steps']:,} steps, validation loss {found['val_loss']:.4f}{error}")


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of a training: TRAINING/checkpoints/best, or one of a step.")
    ],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    trust_remote_code: Trust = False,
    as_json: Json = False,
) -> None:
    """Make a Hugging Face checkpoint of a training's checkpoint."""
    from inheritune import conversion

    _, found = conversion.export(checkpoint, out, trust_remote_code=trust_remote_code)
    if as_json:
        typer.echo(json.dumps({"model": str(out), **found}, indent=2))
    else:
        loss = "" if found["val_loss"] is None else f", validation loss {found['val_loss']:.4f}"
        echo(f"{out}: step {found['step']:,}, {found['parameters']:,} parameters{loss}")


@app.command(
    context_settings=DOTTED,
    epilog="Any key of a recipe's train: --optimizer.name=muon --activation_checkpointing=true --compile=false",
)
def bench(
    context: typer.Context,
    shape: Annotated[
        str | None, typer.Option(help="A named shape: standard (the default) or openllama-1.5b.", show_default=False)
    ] = None,
    model: Annotated[str | None, typer.Option(help="The shape of a model: a folder, hub id or .gguf file.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="The shape of a recipe's first target, with the recipe's settings.")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="What one optimizer step sees: sequences or tokens.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Sequences that pass at once. Default: auto.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a sequence.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float8.")] = None,
    steps: Annotated[int, typer.Option(help="Steps to measure, after those that compile.", min=5)] = 20,
    end_to_end: Annotated[
        int, typer.Option(help="Then train so many steps with the real validations and checkpoints.", min=0)
    ] = 0,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further part after so long. Default: 2.5 on a GPU, else no limit.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: as PyTorch takes.", min=1, max=1024)
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where checkpoints are written for the measurement.")] = Path(),
    out: Annotated[Path | None, typer.Option(help="A JSON file to write the figures to.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure training here: tokens per second, fraction of the machine's limit, memory, what is lost end to end."""
    if out is not None:
        _check_file(out)
    named = {"batch": batch, "micro_batch": micro_batch, "sequence_length": sequence_length, "precision": precision}
    words = [f"{key}={value}" for key, value in named.items() if value is not None] + overrides(context.args)

    from inheritune.bench import bench as measure
    from inheritune.bench import request
    from inheritune.runlog import write_json

    found = measure(
        **request(shape, model, recipe, words, device, threads),
        steps=steps,
        end_to_end=end_to_end,
        minutes=minutes,
        folder=folder,
        terminal=terminal_of(quiet),
    )
    if out is not None:
        write_json(out, found)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show_bench(found)


def _check_file(out: Path) -> None:
    """Raise InputError where no file can be written, before what takes minutes."""
    from inheritune.errors import InputError
    from inheritune.runlog import check_name, claimed

    check_name(out)
    if out.exists():
        raise InputError(str(out), "exists already", "give another file, or remove it")
    with claimed(out.resolve()):
        pass
