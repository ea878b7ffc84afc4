"""The commands. Each checks its arguments, calls one function and prints the result. Those with a file of their own are
registered here.
"""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

import inheritune
from inheritune import __version__, analysis, arch, experiment, inheritance, results, runtime
from inheritune import bench as benchmark
from inheritune import recipe as recipes
from inheritune.cli.analysis import analyze
from inheritune.cli.comparison import compare
from inheritune.cli.evaluation import evaluate, show_tasks
from inheritune.cli.options import (
    DOTTED,
    Calibration,
    Device,
    DryRun,
    Json,
    Prefix,
    Quiet,
    Recovery,
    Revision,
    Tokenizer,
    Trust,
    echo,
    overrides,
    print_result,
    reference_of,
    show_log,
)
from inheritune.cli.planning import plan
from inheritune.cli.preparation import prepare
from inheritune.cli.publishing import push
from inheritune.cli.reporting import report
from inheritune.cli.tables import show_bench, show_inherited, show_plan, show_summary, show_trial
from inheritune.errors import InputError
from inheritune.report import with_error
from inheritune.runlog import check_name, claimed, write_json, write_text

app = typer.Typer(
    name="inheritune",
    help="Make a smaller language model out of a larger one: inherit its blocks, train briefly, grow until it matches.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
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
    """Run a whole recipe; the same command resumes an unfinished run."""
    checked = recipes.load_recipe(recipe, overrides(context.args))
    folder = out or Path("runs") / recipe.stem
    if dry_run:
        trial = experiment.dry_run(checked)
        print_result(trial, as_json, lambda: show_trial(trial))
        return
    show_log(quiet)
    summary = experiment.run(checked, folder)

    def show() -> None:
        show_summary(summary, folder)
        if checked.evaluate.tasks:
            show_tasks(results.EvaluationResult.read(folder / experiment.TASKS_FILE))

    print_result(summary.to_json(), as_json, show)


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
    file = out or Path(f"{Path(reference).stem if reference.endswith('.gguf') else Path(reference).name}.yaml".lower())
    inheritance.check_free(file)
    write_text(file, experiment.starter_recipe(reference))
    echo(f"{file}: written. Set data.sources to your text, then: inheritune run {file}")


app.command(
    context_settings=DOTTED, epilog="Any key of the recipe's data can be set: --data.filters='[gopher_quality]'"
)(prepare)
app.command(context_settings=DOTTED, epilog='Any key of the suite can be set: --train.length="2 epochs"')(compare)
for command in (analyze, evaluate, push, report):
    app.command()(command)


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
    heads: Annotated[str | None, typer.Option(help="Query heads of each block: a number or a fraction.")] = None,
    mlp: Annotated[str | None, typer.Option(help="Neurons of each MLP: a number or a fraction.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Channels of the hidden states: a number or a fraction.")] = None,
    refit: Annotated[
        list[str] | None,
        typer.Option(help="A file, folder, pattern or address with text to refit the kept blocks on; repeatable."),
    ] = None,
    refit_tokens: Annotated[str | None, typer.Option(help="How much of that text. Default: 8192 tokens.")] = None,
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
        layers, choose, submodules, calibration=calibration, recovery=recovery, heads=heads, mlp=mlp, hidden=hidden
    )
    kind, selection, drops = inheritance.as_dtype(dtype), None, None
    fit = inheritance.calibration_text(refit or (), refit_tokens or inheritance.REFIT_TOKENS, prefix)
    show_log()
    with ExitStack() as held:  # during the choice too, whose drops are kept beside the output
        folder = None if out is None or show else held.enter_context(inheritance.free_output(out))
        if spec.choose in recipes.MEASURED and (text or data):
            drops = None if folder is None else analysis.drops_beside(folder)
            selection = analysis.choose(source, spec, text=text or (), data=data, prefix=prefix, progress=drops)
            spec = spec.model_copy(update={"layers": selection.blocks, "choose": "first"})
        elif text or data:
            raise InputError(
                "command line", f"text does not go with --choose {choose}", f"take {', '.join(recipes.MEASURED)}"
            )
        if folder is None:
            derived = inheritance.plan_for(source, spec)
            matrices = inheritance.refitted_matrices(derived) if fit else []
        else:
            derived = inheritance.write(source, spec, folder, dtype=kind, seed=seed, selection=selection, refit=fit)
            if drops is not None:
                drops.unlink(missing_ok=True)
    result: dict[str, Any] = {
        "model": None if show else str(out),
        "blocks": list(derived.plan.kept),
        "of": derived.plan.total,
        "parameters": arch.parameter_count(derived.target),
        "tensors_fresh": len(derived.plan.fresh),
    } | ({"selection": selection.to_json()} if selection else {})
    if show:
        rows = inheritance.plan_rows(derived.plan, (kind or derived.target.dtype).itemsize)
        result |= {"plan": rows, "dropped": list(derived.plan.dropped)} | ({"refit": matrices} if fit else {})
    if as_json:
        typer.echo(json.dumps(result, indent=2 if show else None))
    else:
        (show_plan if show else show_inherited)(result)


@app.command(
    context_settings=DOTTED,
    epilog='Any key of a recipe\'s train: --optimizer.learning_rate=1e-4 --schedule.warm_up="100 steps"',
)
def train(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model to train: a folder, hub id or .gguf file.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; the same command resumes an interrupted training.")],
    data: Annotated[Path, typer.Option(help="A folder that `inheritune prepare` wrote.")],
    length: Annotated[str, typer.Option(help='How long: "10M tokens", "2 epochs", "500 steps".')],
    batch: Annotated[str, typer.Option(help="What one optimizer step sees: sequences or tokens.")] = "64 sequences",
    sequence_length: Annotated[int, typer.Option(help="Predicted tokens a sequence.")] = 1024,
    prefix: Prefix = "auto",
    evaluate_every: Annotated[str, typer.Option(help="How often a validation loss is taken.")] = "100 steps",
    seed: Annotated[int, typer.Option(help="Decides the order of sequences and dropout.", min=0, max=2**31 - 1)] = 1,
    device: Device = "auto",
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
    tree: dict[str, Any] = {"length": length, "batch": batch, "sequence_length": sequence_length}
    if teacher is not None:
        tree["distillation"] = {}
    settings = recipes.check(recipes.Training, recipes.override(tree, overrides(context.args)), "command line: train")
    evaluation = recipes.check(recipes.Evaluate, {"every": evaluate_every}, "command line: evaluate")
    hardware = recipes.check(recipes.Hardware, {"parallel": parallel, "timeout": timeout}, "command line")
    if dry_run:
        place = runtime.start(device, timeout_minutes=hardware.timeout.amount)
        teacher_config = None if teacher is None else arch.load_config(recipes.model_at(teacher))
        blocks = None if teacher_config is None else experiment.inherited_blocks(model, teacher_config)
        trial = experiment.try_step(arch.load_config(recipes.model_at(model)), settings, place, teacher_config, blocks)
        print_result(trial, as_json, lambda: show_trial(trial))
        return
    show_log(quiet)
    _, trained = experiment.train(
        model, data, out, settings=settings, evaluate=evaluation, seed=seed, device=device, parallel=hardware.parallel,
        timeout=hardware.timeout.amount, track=track or (), teacher=teacher, prefix=prefix,
    )  # fmt: skip
    result = {key: value for key, value in trained.to_json().items() if not key.startswith("cluster_")}
    result["model"] = str(out / "model")
    loss = with_error(trained.val_loss, trained.val_loss_se)
    print_result(result, as_json, lambda: echo(f"{out / 'model'}: {trained.steps:,} steps, validation loss {loss}"))


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
    _, exported = inheritune.export(checkpoint, out, trust_remote_code=trust_remote_code)
    loss = "" if exported.val_loss is None else f", validation loss {exported.val_loss:.4f}"
    line = f"{out}: step {exported.step:,}, {exported.parameters:,} parameters{loss}"
    print_result({"model": str(out), **asdict(exported)}, as_json, lambda: echo(line))


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
    micro_batch: Annotated[int | None, typer.Option(help="Sequences in one forward pass. Default: auto.")] = None,
    sequence_length: Annotated[int | None, typer.Option(help="Tokens a sequence.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float8.")] = None,
    steps: Annotated[int, typer.Option(help="Steps to measure, after those that compile.", min=5)] = 20,
    end_to_end: Annotated[
        int, typer.Option(help="Then train this many steps with the real validations and checkpoints.", min=0)
    ] = 0,
    minutes: Annotated[
        float | None, typer.Option(help="Begin no further part after this time. Default: 2.5 on a GPU, else no limit.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads. Default: as PyTorch chooses.", min=1, max=1024)
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where checkpoints are written for the measurement.")] = Path(),
    out: Annotated[Path | None, typer.Option(help="A JSON file to write the figures to.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure training here: tokens per second, fraction of the machine's limit, memory, what is lost end to end."""
    if out is not None:  # measuring takes minutes, so a file that cannot be written is refused first
        check_name(out)
        if out.exists():
            raise InputError(str(out), "exists already", "give another file, or remove it")
        with claimed(out.resolve()):
            pass
    named = {"batch": batch, "micro_batch": micro_batch, "sequence_length": sequence_length, "precision": precision}
    words = [f"{key}={value}" for key, value in named.items() if value is not None] + overrides(context.args)
    show_log(quiet)
    figures = benchmark.bench(
        **benchmark.request(shape, model, recipe, words, device, threads), steps=steps, end_to_end=end_to_end,
        minutes=minutes, folder=folder,
    )  # fmt: skip
    if out is not None:
        write_json(out, figures)
    print_result(figures, as_json, lambda: show_bench(figures))
