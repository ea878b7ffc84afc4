"""comparison.json: the results of all arms, over validation sequences and seeds. Pure but for reading curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inheritune.evaluation import gap, gap_figures, loss_of, mean
from inheritune.experiment.plan import PlannedArm, is_equal
from inheritune.experiment.suite import Suite
from inheritune.report import arm_curve, speed_up, verdict_of
from inheritune.results import (
    Arm,
    ArmResult,
    Comparison,
    Failure,
    JudgedArm,
    ModelResult,
    PublishedFigures,
    ReferenceSummary,
    SeedSummary,
)


def set_side_by_side(
    suite: Suite, planned: Sequence[PlannedArm], folder: Path, reference: ReferenceSummary, judged: ModelResult,
    results: dict[str, list[ArmResult]], failures: dict[str, list[Failure]], budget: int, finished: bool,
) -> Comparison:  # fmt: skip
    """The comparison so far. Losses and gaps in nats a token; paths relative to `folder`.

    `judged` is the reference's result, `budget` the tokens of the suite's arms.
    """
    by_name = {arm.name: arm for arm in planned}
    arms: list[Arm] = []
    for settings in suite.arms:
        own, failed = results[settings.name], failures[settings.name]
        arm = Arm(
            name=settings.name,
            start=settings.start.kind,
            state="failed" if failed else "finished" if len(own) == len(suite.all_seeds) else "waiting",
            failures=failed,
            allow_unequal=settings.allow_unequal,
        )
        if own:
            over_seeds = _over_seeds(settings.name, own, judged, suite.evaluate.tolerance)
            equal = is_equal(over_seeds["tokens"], budget, suite, by_name[settings.name])
            arm = JudgedArm.of(arm, **over_seeds, equal=equal)
        arms.append(arm)
    arms = [_beside_random(arm, arms, by_name, folder, results) for arm in arms]
    return Comparison(
        finished=finished,
        reference=reference,
        arms=[arm.model_copy(update={"verdict": verdict_of(arm)}) for arm in arms],
        budget_tokens=budget,
        seeds=suite.all_seeds,
        tolerance=suite.evaluate.tolerance,
        validation_sequences=judged.validation_sequences,
        validation_documents=judged.validation_documents,
        curve_sequences=min(suite.evaluate.sequences, judged.validation_sequences),
        published=None if suite.published is None else PublishedFigures(**suite.published.model_dump(mode="json")),
    )


def _over_seeds(
    name: str, results: list[ArmResult], reference: ModelResult, tolerance: float
) -> dict[str, Any]:  # fmt: skip
    """The fields of an arm that are means over its seeds, with both errors (`JudgedArm`)."""
    first, tokens = results[0], reference.cluster_tokens
    fields: dict[str, Any] = {key: value for key, value in first.given().items() if key in _OF_FIRST_SEED}
    for key, of_clusters in (("val_loss", "cluster_losses"), ("best_val_loss", "best_cluster_losses")):
        loss = loss_of(_mean_losses([getattr(one, of_clusters) for one in results]), tokens)
        margin = mean([getattr(one, key) for one in results]).margin
        fields |= {key: loss.value, f"{key}_se": loss.error, f"{key}_margin_seeds": margin}
    for cost in ("tokens", "steps", "flops", "epochs"):  # growth may need more rounds with one seed than with another
        values = [getattr(one, cost) for one in results]
        fields[cost] = values[0] if len(set(values)) == 1 else mean(values).value
    for rate in ("flops_to_match", "tokens_per_second"):
        values = [getattr(one, rate) for one in results]
        fields[rate] = None if None in values else mean(values).value
    between = gap(_mean_losses([one.cluster_losses for one in results]), reference.cluster_losses, tokens)
    folders = [f"arms/{name}/seed-{one.seed}" for one in results]
    return {
        **fields,
        "seconds": mean([one.seconds for one in results]).value,
        **gap_figures(between, tolerance, tokens),
        "model": f"{folders[0]}/{first.model}",
        "runs": [SeedSummary.of(one, folder=folder) for one, folder in zip(results, folders, strict=True)],
    }


_OF_FIRST_SEED = (
    "layers", "parameters", "blocks", "left_over_tokens", "teacher_outputs", "teacher_flops", "teacher_head_flops",
)  # fmt: skip


def _mean_losses(losses: Sequence[Sequence[float]]) -> list[float]:
    """The loss of each cluster, its mean over seeds."""
    return [mean(each).value for each in zip(*losses, strict=True)]


def _beside_random(
    arm: Arm, arms: Sequence[Arm], planned: dict[str, PlannedArm], folder: Path, results: dict[str, list[ArmResult]]
) -> Arm:  # fmt: skip
    """The arm with its distance to the random model of its size, and how much sooner it reaches that model's loss."""
    if not isinstance(arm, JudgedArm):
        return arm
    random = next((one for one in arms if isinstance(one, JudgedArm) and _is_random_of(one, arm, planned)), None)
    if random is None or random.name == arm.name:
        return arm
    own, theirs = results[arm.name], results[random.name]
    losses = [_mean_losses([one.cluster_losses for one in each]) for each in (own, theirs)]
    over = gap(losses[0], losses[1], own[0].cluster_tokens)
    by_seed = {one.seed: one.val_loss for one in theirs}
    pairs = [one.val_loss - by_seed[one.seed] for one in own if one.seed in by_seed]
    found = {
        "random": random.name,
        "over_random": over.value,
        "over_random_se": over.error,
        "over_random_interval": over.interval,
        "over_random_margin_seeds": mean(pairs).margin if pairs else None,
    }
    if over.value < 0:
        sooner = speed_up(arm_curve(folder, arm.runs), arm_curve(folder, random.runs))
        found |= {"speed_up": sooner.middle, "speed_up_range": sooner.range}
    return arm.model_copy(update=found)


def _is_random_of(random: JudgedArm, arm: JudgedArm, planned: dict[str, PlannedArm]) -> bool:
    """Whether `random` is the arm that `arm` is measured by: as large, on the suite's budget and the same text, from
    random weights, and without a teacher.
    """
    settings = planned[random.name]
    return (
        random.start == "random"
        and random.equal
        and random.parameters == arm.parameters
        and settings.training.distillation is None
        and settings.settings.data == planned[arm.name].settings.data
    )
