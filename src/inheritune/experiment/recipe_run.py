"""`run`: from a recipe to a smaller model and the evidence. A grown arm and its controls."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from inheritune import runtime as rt
from inheritune.arch import load_config
from inheritune.card import without_stopping, write_cards
from inheritune.distillation import Teacher
from inheritune.evaluation import gap
from inheritune.experiment.checks import check_recipe
from inheritune.experiment.choice import decide
from inheritune.experiment.context import RunContext
from inheritune.experiment.folders import opened
from inheritune.experiment.plan import Models
from inheritune.experiment.post_run import write_post_run
from inheritune.experiment.recovery import Facts, decide_recovery, usable_memory, with_decision
from inheritune.experiment.rounds import best_round, continues, round_stages
from inheritune.experiment.setup import Setup
from inheritune.experiment.stage import Stage
from inheritune.experiment.stages import Stages
from inheritune.experiment.store import once
from inheritune.experiment.tasks import judge_tasks
from inheritune.experiment.vocabulary import trim_reference
from inheritune.recipe import Recipe, Reference, Size
from inheritune.report import behind_until, tokens_to_match, write_report
from inheritune.results import (
    Control,
    ModelResult,
    Outcome,
    RecoveryDecision,
    ReferenceSummary,
    Round,
    RoundResult,
    RunSummary,
    TunedReference,
    VocabularyResult,
)
from inheritune.runlog import logger

# Keys of a recipe that do not affect the models of the rounds; they may differ when a run is resumed.
_FREE = (
    "controls", "train.checkpoint", "train.micro_batch", "hardware", "track", "evaluate.analyze", "evaluate.prompts",
    "evaluate.new_tokens", "evaluate.tasks", "evaluate.tasks_folder", "evaluate.trust_task_files",
)  # fmt: skip
_ROUNDS, _CONTROLS = "rounds", "controls"


def run(recipe: Recipe, folder: str | Path) -> RunSummary:
    """Run a recipe in `folder`, or resume an unfinished run; returns what is in summary.json.

    Raises InputError when the input is wrong, RunError when the work fails, Interrupted when a signal stopped it.
    """
    folder = Path(folder)
    hardware = recipe.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)
    file = folder / "summary.json"

    def check() -> None:
        before = RunSummary.read_if_there(file)
        if before is None or not _is_complete(before, recipe):
            check_recipe(recipe, runtime)

    with opened(folder, "recipe.yaml", recipe, _FREE, check, runtime):
        setup = Setup(recipe, folder, folder / "data", folder / "reference", runtime)
        asked = recipe
        recipe, vocabulary = trim_reference(recipe, setup)
        setup = replace(setup, basis=recipe)
        recipe = _decided(recipe, setup)
        setup = replace(setup, basis=recipe)
        summary = runtime.on_rank0(lambda: RunSummary.read_if_there(file))
        if summary is not None and _is_complete(summary, recipe):
            logger.info(f"{folder}: finished before; its report is written again")
            judge_tasks(recipe, setup, summary.result.model)
            runtime.on_rank0(lambda: write_report(folder, summary))
        else:
            summary = _train(recipe, setup, vocabulary, asked.reference)

        def describe() -> None:
            inherit = recipe.inherit.model_copy(update={"vocabulary": asked.inherit.vocabulary})
            with without_stopping("start the run again to write it"):
                own = asked.reference.model_copy(update={"tune": recipe.reference.tune})
                write_cards(folder, recipe.model_copy(update={"reference": own, "inherit": inherit}), summary)

        runtime.on_rank0(describe)
        # Heads, layers and samples come last: a run is complete without them.
        if write_post_run(recipe, setup, summary.result.model):
            runtime.on_rank0(lambda: write_report(folder, summary))
        return summary


def _is_complete(summary: RunSummary, recipe: Recipe) -> bool:
    """Whether the run is finished, with the controls that are asked for now."""
    return summary.finished and [control.name for control in summary.controls] == list(recipe.controls)


def _decided(recipe: Recipe, setup: Setup) -> Recipe:
    """The recipe with what its recovery decides, once for all starts; recovery.json keeps it."""
    if not recipe.recovery.decides:
        return recipe
    runtime, file = setup.runtime, setup.folder / "recovery.json"

    def decide_now() -> RecoveryDecision:
        tokens = len(setup.prepared().tokens("train"))
        return runtime.on_rank0(
            lambda: decide_recovery(recipe, Models(recipe, drafts=False), Facts(tokens, usable_memory(runtime)))
        )

    decision = once(runtime, file, RecoveryDecision, decide_now)
    logger.info(f"recovery: {decision.kind}. {' '.join(decision.reasons)}")
    return with_decision(recipe, decision)


def _train(
    recipe: Recipe, setup: Setup, vocabulary: VocabularyResult | None, untrimmed: Reference
) -> RunSummary:  # fmt: skip
    """Reference, rounds, controls and tasks; summary.json and the report are written after each round.

    `untrimmed` is the reference with all its tokens.
    """
    folder = setup.folder
    reference, context = setup.judge_reference(setup.context())
    source = setup.model
    whole = None if vocabulary is None else load_config(untrimmed)
    inherit, dropped = decide(source, recipe.inherit, context, folder / "selection.json", whole)
    stages = round_stages(inherit, recipe.grow, reference.layers, dropped)
    teacher = None
    if recipe.train.distillation is not None:  # of all rounds that there may be, and of the random control
        teacher = Teacher(source, folder / "teacher", len(stages) + ("random" in recipe.controls))
    controls: list[Control] = []
    seconds = reference.wall_seconds + (context.prepared.manifest.get("seconds", 0.0) if recipe.data.sources else 0.0)

    def write(rounds: list[RoundResult], *, finished: bool = False) -> RunSummary:
        spent = seconds + sum(one.wall_seconds for one in rounds)
        return setup.runtime.on_rank0(
            lambda: _write(recipe, folder, reference, rounds, controls, spent, finished, vocabulary)
        )

    own = Stages(source, folder / _ROUNDS, context, teacher=teacher)
    rounds = own.train(
        stages, [recipe.train] * len(stages), lambda results: continues(results, recipe.grow, len(stages)), write
    )
    for name in recipe.controls:
        control, took = _control(name, recipe, best_round(rounds, recipe.grow), setup, context, teacher)
        controls.append(control)
        seconds += took
    if recipe.evaluate.tasks:  # which may take long, so the summary is written before
        judge_tasks(recipe, setup, write(rounds).result.model)
    return write(rounds, finished=True)


def _control(
    name: str, recipe: Recipe, result: RoundResult, setup: Setup, context: RunContext, teacher: Teacher | None
) -> tuple[Control, float]:
    """A control with the depth and the budget of the result, and the seconds that it took.

    The budget is that of all rounds that the result continues, its own included. The random control has the rounds'
    teacher. The reference is not taught by itself, which would keep it from what it can learn from the text.
    """
    steps = result.steps + (result.steps_before or 0)
    settings = context.training.model_copy(update={"length": Size(steps, "steps")})
    if name == "random":
        assert result.blocks is not None
        folder, inherit = f"{name}-{result.layers}layers", recipe.inherit
        stage = Stage(result.blocks, "random", inherit.submodules, inherit.only_widths, folder=folder)
    else:
        stage = Stage([], "whole", folder=name)
        settings = settings.model_copy(update={"distillation": None})
    shape = None
    if name == "random" and (recipe.inherit.chooses_units or recipe.inherit.has_budget):
        place = setup.folder / _ROUNDS / result.folder / "model"
        shape = Reference(path=str(place), trust_remote_code=context.trust_remote_code)
    own = Stages(setup.model, setup.folder / _CONTROLS, context, lambda one: f"control {one.folder}", teacher, shape)
    trained = own.train_one(stage, settings)
    over = gap(trained.cluster_losses, result.cluster_losses, result.cluster_tokens)
    more: dict[str, Any] = {}
    if name == "random" and not result.steps_before:
        until = behind_until(setup.folder / _CONTROLS / trained.folder, setup.folder / _ROUNDS / result.folder)
        more = {} if until is None else {"behind_until": until}
    model = f"{_CONTROLS}/{trained.folder}/model"
    control = Control.of(
        trained, name=name, model=model, over_result=over.value, over_result_se=over.error,
        over_result_interval=over.interval, **more,
    )  # fmt: skip
    return control, trained.wall_seconds


def _write(
    recipe: Recipe, folder: Path, reference: ModelResult, rounds: list[RoundResult], controls: list[Control],
    seconds: float, finished: bool, vocabulary: VocabularyResult | None,
) -> RunSummary:  # fmt: skip
    """Write summary.json and the report, by rank 0."""
    best, tolerance = best_round(rounds, recipe.grow), recipe.evaluate.tolerance
    result = Outcome.of(best, model=f"{_ROUNDS}/{best.folder}/model", **_over_untuned(reference, best))
    to_match = tokens_to_match(folder / _ROUNDS / best.folder, result, best.tokens, tolerance)
    if to_match is not None:
        result = Outcome.of(result, tokens_to_match=to_match)
    summary = RunSummary(
        finished=finished,
        reference=ReferenceSummary.of(reference, name=vocabulary.reference if vocabulary else recipe.reference.title),
        rounds=[Round.of(one, model=f"{_ROUNDS}/{one.folder}/model") for one in rounds],
        controls=controls,
        result=result,
        tolerance=tolerance,
        **({} if vocabulary is None else {"vocabulary": vocabulary}),
        validation_sequences=reference.validation_sequences,
        validation_documents=reference.validation_documents,
        wall_seconds=round(seconds, 1),
        peak_memory_bytes=rt.peak_memory(),
    )
    write_report(folder, summary)
    summary.write(folder / "summary.json")
    return summary


def _over_untuned(reference: ModelResult, result: RoundResult) -> dict[str, float | None]:
    """The result's distance to the reference before tuning, where it was tuned."""
    if not isinstance(reference, TunedReference):
        return {}
    over = gap(result.cluster_losses, reference.untuned.cluster_losses, result.cluster_tokens)
    return {"over_untuned": over.value, "over_untuned_se": over.error}
