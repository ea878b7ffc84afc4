"""One arm of a suite with one seed: its stages trained one after the other, and its result with all costs counted."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inheritune.arch import layer_count, load_config
from inheritune.conversion import export
from inheritune.distillation import Teacher
from inheritune.experiment.choice import decide
from inheritune.experiment.context import RunContext
from inheritune.experiment.folders import asked, begun
from inheritune.experiment.plan import PlannedArm, in_name_of, stage_trainings
from inheritune.experiment.stage import Stage
from inheritune.experiment.stages import Stages, shares_outputs
from inheritune.experiment.store import once
from inheritune.recipe import Reference
from inheritune.results import ArmResult, ArmStage, RoundResult
from inheritune.runlog import read_metrics
from inheritune.training import is_checkpoint, planned_steps

_ROUNDS = "rounds"
_COSTS = (
    "tokens", "steps", "epochs", "flops", "seconds", "wall_seconds", "teacher_flops", "teacher_head_flops",
    "left_over_tokens",
)  # fmt: skip


def arm_folder(folder: Path, name: str, seed: int) -> Path:
    """The folder of an arm with a seed, in the folder of a comparison."""
    return folder / "arms" / name / f"seed-{seed}"


def arm_result(folder: Path) -> ArmResult:
    """The result in an arm's folder."""
    return ArmResult.read(folder / "result.json")


def trained_model(folder: Path) -> Reference:
    """The trained model of an arm's folder."""
    return Reference(path=str(folder / arm_result(folder).model))


def request_of(arm: PlannedArm, seed: int) -> dict[str, Any]:
    """What tells an arm from another one in the same folder, except its text."""
    teacher = arm.settings.teacher
    return {"start": arm.start, "layers": arm.depth, "teacher": teacher, "seed": seed, **asked(arm.training)}


def train_arm(
    arm: PlannedArm, folder: Path, origin: Reference, context: RunContext, teacher: Teacher | None
) -> ArmResult:
    """Train and judge an arm with one seed in `folder`, or resume it; returns its result.

    `origin` is where its weights come from (of random ones: their shape). Tokens, steps, FLOPs and seconds are those of
    all its stages, which `stages` lists. While another comparison trains an arm that both share, this one waits. Raises
    InputError where its folder belongs to other settings, what a training raises, and RunError where something fails.
    """
    context = replace(context, training=arm.training)
    request = request_of(arm, context.seed) | {"data": context.prepared.checksums}

    def train() -> ArmResult:
        return _train(arm, folder, origin, context, teacher)

    with in_name_of(arm.name), begun(folder, request, context.runtime, wait=folder.is_symlink()):
        return once(context.runtime, folder / "result.json", ArmResult, train)


def _train(
    arm: PlannedArm, folder: Path, origin: Reference, context: RunContext, teacher: Teacher | None
) -> ArmResult:  # fmt: skip
    method, dropped = arm.settings.start, None
    measured = method.measured(arm.depth)
    if measured is not None:
        decided, dropped = decide(origin, measured, context, folder / "selection.json")
        method = method.settled(decided)
    total = layer_count(load_config(origin))
    depth = arm.depth if method is arm.settings.start else method.depth(arm.depth, total)
    stages = method.stages(depth, total, dropped)

    def label(stage: Stage) -> str:
        if method.is_rounds:
            return f"{arm.name}, seed {context.seed}, round {stage.folder}"
        name = arm.name if stage.folder == "." else f"{arm.name}, {stage.folder}"
        return f"{name}, seed {context.seed}"

    own = Stages(origin, folder / _ROUNDS if method.is_rounds else folder, context, label, teacher)
    trainings = stage_trainings(arm.training, stages, planned_steps(arm.training, context.train_sequences))
    results = own.train(
        stages, trainings, lambda results: method.continues(results, len(stages)), say_verdict=method.is_rounds
    )  # fmt: skip
    if method.is_rounds:
        results = [one.model_copy(update={"folder": f"{_ROUNDS}/{one.folder}"}) for one in results]
    last = method.result(results)
    before: list[ArmStage] = []
    if arm.counts_source:
        source = arm_result(folder.parents[1] / str(arm.source) / folder.name)
        at = f"../../{arm.source}/{folder.name}"
        before = [one.model_copy(update={"folder": f"{at}/{one.folder}"}) for one in source.stages]
    to_match = None
    if method.has_reached(last):  # rounds after the one that matched do not count
        trained = results[: results.index(last) + 1] if method.is_rounds else results
        to_match = sum(one.flops for one in before) + sum(one.flops for one in trained)
    costs = _costs([*before, *results], is_shared=shares_outputs(last.teacher_outputs, arm.training))
    return ArmResult.of(
        last, **costs, **_best_weights(folder, last, context), seed=context.seed, flops_to_match=to_match,
        tokens_per_second=round(costs["tokens"] / costs["seconds"], 1) if costs["seconds"] else None,
        model=f"{last.folder}/model".removeprefix("./"),
        stages=[*before, *(ArmStage.of(one) for one in results)],
    )  # fmt: skip


def _costs(stages: Sequence[RoundResult | ArmStage], *, is_shared: bool) -> dict[str, Any]:
    """The costs of all stages; a teacher's outputs that are `is_shared` are computed once for all of them."""
    costs: dict[str, Any] = {}
    for cost in _COSTS:
        parts = [value for one in stages if (value := getattr(one, cost, None)) is not None]
        if parts:
            costs[cost] = max(parts) if is_shared and cost == "teacher_flops" else sum(parts)
    return costs


def _best_weights(folder: Path, result: RoundResult, context: RunContext) -> dict[str, Any]:
    """Best validation loss during a stage's training, its standard error and its step, on all validation sequences.

    The best step is the one with the lowest loss during training, without the start (step 0). Where it is the last
    step, or the recipe keeps no best weights, the values are the final ones.
    """
    place = folder / result.folder
    best = place / "checkpoints" / "best"

    def is_kept() -> bool:
        records = [one for one in read_metrics(place / "metrics.jsonl") if "val_loss" in one and one["step"]]
        step = min(records, key=lambda record: record["val_loss"])["step"] if records else result.steps
        return step != result.steps and is_checkpoint(best)

    loss, error, step, losses = result.val_loss, result.val_loss_se, result.steps, result.cluster_losses
    if context.runtime.on_rank0(is_kept):
        with tempfile.TemporaryDirectory() as scratch:
            model, exported = export(best, Path(scratch) / "best", trust_remote_code=context.trust_remote_code)
        judged = context.judge(model)
        if judged.loss.value < loss:  # else the fewer sequences during training ranked them differently
            loss, error, step, losses = judged.loss.value, judged.loss.error, exported.step, list(judged.losses)
    return {"best_val_loss": loss, "best_val_loss_se": error, "best_step": step, "best_cluster_losses": losses}
