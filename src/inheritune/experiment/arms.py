"""One arm of a suite with one seed: its stages trained one after the other, and its result with all costs counted."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inheritune.arch import layer_count, load_config
from inheritune.conversion import export
from inheritune.distillation import Teacher
from inheritune.evaluation import Evaluation
from inheritune.experiment.choice import choose_once
from inheritune.experiment.context import RunContext
from inheritune.experiment.folders import asked, begun
from inheritune.experiment.plan import PlannedArm, in_name_of, stage_trainings
from inheritune.experiment.stage import Stage
from inheritune.experiment.stages import Stages
from inheritune.experiment.store import once
from inheritune.recipe import Reference
from inheritune.results import ArmResult, ArmStage, RoundResult
from inheritune.runlog import read_metrics
from inheritune.training import is_checkpoint, planned_steps

_ROUNDS = "rounds"


def arm_folder(folder: Path, name: str, seed: int) -> Path:
    """The folder of an arm with a seed, in the folder of a comparison."""
    return folder / "arms" / name / f"seed-{seed}"


def result_file(folder: Path) -> Path:
    """The file with an arm's result, in its folder."""
    return folder / "result.json"


def trained_model(folder: Path) -> Reference:
    """The trained model of an arm's folder."""
    return Reference(path=str(folder / ArmResult.read(result_file(folder)).model))


def request_of(arm: PlannedArm, seed: int) -> dict[str, Any]:
    """What tells an arm from another one in the same folder, except its text."""
    teacher = arm.settings.teacher
    return {"start": arm.start, "layers": arm.depth, "teacher": teacher, "seed": seed, **asked(arm.training)}


@dataclass(frozen=True)
class ArmContext:
    """What an arm is trained with: the comparison's folder, the reference and its losses, the context, teachers.

    `data` are the checksums of the text that the arm trains on.
    """

    folder: Path
    reference: Reference
    judged: Evaluation
    context: RunContext
    data: dict[str, str]
    teachers: dict[str, Teacher] = field(repr=False)

    def arm_folder(self, name: str) -> Path:
        """The folder of an arm with this seed."""
        return arm_folder(self.folder, name, self.context.seed)

    def origin(self, arm: PlannedArm) -> Reference:
        """Where an arm's weights come from (for random ones: its shape)."""
        if arm.source is not None:
            return trained_model(self.arm_folder(arm.source))
        of = arm.settings.start.origin
        return self.reference if of is None else Reference(path=of)


def train_arm(arm: PlannedArm, given: ArmContext) -> ArmResult:
    """Train and judge an arm with one seed, or resume it; returns its result.

    Tokens, steps, FLOPs and seconds are those of all its stages, which `stages` lists. Raises InputError where its
    folder belongs to other settings, what a training raises, and RunError where something fails.
    """
    folder, context = given.arm_folder(arm.name), given.context
    request = request_of(arm, context.seed) | {"data": given.data}
    with in_name_of(arm.name), begun(folder, request, context.runtime):
        return once(context.runtime, result_file(folder), ArmResult, lambda: _train(arm, given, folder))


def _train(arm: PlannedArm, given: ArmContext, folder: Path) -> ArmResult:
    method, origin = arm.settings.start, given.origin(arm)
    context = replace(given.context, training=arm.training)
    measured, dropped = method.measured(arm.depth), None
    if measured is not None:
        selection = choose_once(origin, measured, context, folder / "selection.json")
        dropped = [one.block for one in selection.dropped]
    stages = method.stages(arm.depth, layer_count(load_config(origin)), dropped)
    teacher = None if arm.training.distillation is None else given.teachers[arm.settings.teacher or ""]
    place = folder / _ROUNDS if method.is_rounds else folder
    own = Stages(origin, given.judged, place, context, lambda stage: _label(arm, context.seed, stage), teacher)
    trainings = stage_trainings(arm.training, stages, planned_steps(arm.training, context.train_sequences))
    results = own.train(
        stages, trainings, lambda matched: method.continues(matched, len(stages)), say_verdict=method.is_rounds
    )  # fmt: skip
    if method.is_rounds:
        results = [one.model_copy(update={"folder": f"{_ROUNDS}/{one.folder}"}) for one in results]
    last = method.result(results)
    before: list[ArmStage] = []
    if arm.counts_source:
        assert arm.source is not None
        source = ArmResult.read(result_file(given.arm_folder(arm.source)))
        at = f"../../{arm.source}/{folder.name}"
        before = [one.model_copy(update={"folder": f"{at}/{one.folder}"}) for one in source.stages]
    to_match = None
    if last.matched:  # rounds after the one that matched do not count
        trained = results[: results.index(last) + 1] if method.is_rounds else results
        to_match = sum(one.flops for one in before) + sum(one.flops for one in trained)
    best = best_weights(folder, last, context)
    return _summed(last, results, before, seed=context.seed, flops_to_match=to_match, **best)


def _label(arm: PlannedArm, seed: int, stage: Stage) -> str:
    """The name of a stage in messages and trackers."""
    if arm.settings.start.is_rounds:
        return f"{arm.name}, seed {seed}, round {stage.folder}"
    name = arm.name if stage.folder == "." else f"{arm.name}, {stage.folder}"
    return f"{name}, seed {seed}"


def _summed(last: RoundResult, results: Sequence[RoundResult], before: Sequence[ArmStage], **more: Any) -> ArmResult:
    """The result of the stage `last` with `more` fields and the costs of all stages, those `before` too."""
    every: list[RoundResult | ArmStage] = [*before, *results]
    costs: dict[str, Any] = {}
    for cost in ("tokens", "steps", "epochs", "flops", "seconds", "wall_seconds", "teacher_flops", "left_over_tokens"):
        parts = [value for one in every if (value := getattr(one, cost, None)) is not None]
        if parts:
            # stored outputs are computed once for all stages
            is_shared = cost == "teacher_flops" and last.teacher_outputs == "stored"
            costs[cost] = max(parts) if is_shared else sum(parts)
    return ArmResult.of(
        last, **costs, **more,
        tokens_per_second=round(costs["tokens"] / costs["seconds"], 1) if costs["seconds"] else None,
        model=f"{last.folder}/model".removeprefix("./"),
        stages=[*before, *(ArmStage.of(one) for one in results)],
    )  # fmt: skip


def best_weights(folder: Path, result: RoundResult, context: RunContext) -> dict[str, Any]:
    """Best validation loss during a stage's training, its standard error and its step, on all validation sequences.

    The best step is the one with the lowest loss during training, without the start (step 0). Where it is the last
    step, or the recipe keeps no best weights, the values are the final ones.
    """
    runtime, place = context.runtime, folder / result.folder
    best = place / "checkpoints" / "best"

    def best_step() -> int | None:
        records = [one for one in read_metrics(place / "metrics.jsonl") if "val_loss" in one and one["step"]]
        step: int = min(records, key=lambda record: record["val_loss"])["step"] if records else result.steps
        return None if step == result.steps or not is_checkpoint(best) else step

    final = {
        "best_val_loss": result.val_loss,
        "best_val_loss_se": result.val_loss_se,
        "best_step": result.steps,
        "best_sequence_losses": result.sequence_losses,
    }
    if runtime.on_rank0(best_step) is None:
        return final
    with tempfile.TemporaryDirectory() as nowhere:
        model, facts = export(best, Path(nowhere) / "best", trust_remote_code=context.trust_remote_code)
    judged = context.judge(model)
    if judged.loss.value >= result.val_loss:  # the fewer sequences during training ranked them differently
        return final
    return {
        "best_val_loss": judged.loss.value,
        "best_val_loss_se": judged.loss.error,
        "best_step": facts["step"],
        "best_sequence_losses": list(judged.losses),
    }
