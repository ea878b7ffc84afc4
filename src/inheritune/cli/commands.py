"""The commands. Each checks its arguments, calls one function and prints the result. Those with a file of their own are
registered here.
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from inheritune import __version__, arch, experiment, inheritance, results, runtime
from inheritune import bench as benchmark
from inheritune import recipe as recipes
from inheritune import report as reports
from inheritune.cli.analysis import analyze
from inheritune.cli.comparison import compare
from inheritune.cli.evaluation import evaluate, show_tasks
from inheritune.cli.exporting import export
from inheritune.cli.help import Command, Group
from inheritune.cli.inheriting import inherit
from inheritune.cli.options import (
    DOTTED,
    Device,
    DryRun,
    Json,
    Prefix,
    Quiet,
    echo,
    overrides,
    print_result,
    show_log,
)
from inheritune.cli.planning import plan
from inheritune.cli.preparation import prepare
from inheritune.cli.publishing import push
from inheritune.cli.reporting import report
from inheritune.cli.tables import show_bench, show_summary, show_trial
from inheritune.errors import InputError
from inheritune.runlog import check_name, claimed, write_json, write_text

app = typer.Typer(
    name="inheritune",
    help="Make a smaller language model out of a larger one: inherit its blocks, train briefly, grow until it matches.",
    cls=Group,
    invoke_without_command=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command = partial(app.command, cls=Command)


def _version(asked: bool) -> None:
    if asked:
        echo(f"inheritune {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@command(
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


command(context_settings=DOTTED, epilog="Any key of the recipe can be overridden: --inherit.layers=10")(plan)


@command()
def new(
    reference: Annotated[
        str, typer.Argument(help="A hub id, a folder with a Hugging Face checkpoint, or a .gguf file.")
    ],
    out: Annotated[
        Path | None, typer.Argument(help="The recipe to write. Default: the model's name with .yaml.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="A file, folder, pattern or address with your text.")] = None,
) -> None:
    """Write a commented starter recipe for a model, and for your text."""
    file = out or Path(f"{Path(reference).stem if reference.endswith('.gguf') else Path(reference).name}.yaml".lower())
    inheritance.check_free(file)
    write_text(file, experiment.starter_recipe(reference, text))
    first = "" if text else "Set data.sources to your text, then: "
    echo(f"{file}: written. {first}inheritune plan {file}, and inheritune run {file}")


command(context_settings=DOTTED, epilog="Any key of the recipe's data can be set: --data.filters='[gopher_quality]'")(
    prepare
)
command(context_settings=DOTTED, epilog='Any key of the suite can be set: --train.length="2 epochs"')(compare)
for function in (analyze, evaluate, export, inherit, push, report):
    command()(function)


@command(
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
        str, typer.Option(help="How torchrun's processes share the model: auto, ddp, fsdp or hsdp.")
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
    loss = reports.with_error(trained.val_loss, trained.val_loss_se)
    print_result(result, as_json, lambda: echo(f"{out / 'model'}: {trained.steps:,} steps, validation loss {loss}"))


@command(
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
