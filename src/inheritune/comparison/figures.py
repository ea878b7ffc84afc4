"""comparison.json: the figures of all arms, over sequences and seeds. Pure but for reading curves."""

from pathlib import Path
from typing import Any

from inheritune.comparison.budgets import is_equal, step_of
from inheritune.comparison.planned import Planned
from inheritune.evaluation import gap, is_matched, mean
from inheritune.recipe import Suite
from inheritune.report import arm_curve, tokens_to_reach, verdict_of

_REFERENCE_KEYS = (
    "name", "folder", "layers", "parameters", "val_loss", "val_loss_se", "tokens", "epochs", "steps",
    "left_over_tokens", "flops", "tokens_per_second", "seconds",
)  # fmt: skip
_SHAPE_KEYS = (
    "layers", "parameters", "blocks", "tokens", "epochs", "steps", "left_over_tokens", "flops", "teacher_outputs",
    "teacher_flops",
)  # fmt: skip
_RUN_KEYS = (
    "seed", "folder", *_SHAPE_KEYS, "seconds", "tokens_per_second", "val_loss", "val_loss_se", "best_val_loss",
    "best_val_loss_se", "best_step", "gap", "gap_se", "matched", "flops_to_match", "model", "stages",
)  # fmt: skip

Runs = dict[str, list[dict[str, Any]]]


def compared(
    suite: Suite, planned: list[Planned], folder: Path, reference: dict[str, Any], results: Runs, failures: Runs,
    budget: int,
) -> dict[str, Any]:  # fmt: skip
    """What comparison.json holds, but for `finished`. Losses and gaps in nats a token; paths relative to `folder`."""
    by_name = {arm.name: arm for arm in planned}
    arms: list[dict[str, Any]] = []
    for settings in suite.arms:
        arm = by_name[settings.name]
        runs, failed = results[arm.name], failures[arm.name]
        found: dict[str, Any] = {
            "name": arm.name,
            "start": settings.start.kind,
            "state": "failed" if failed else "finished" if len(runs) == len(suite.all_seeds) else "waiting",
            "failures": failed,
            "allow_unequal": settings.allow_unequal,
        }
        if runs:
            found |= _over_seeds(runs, reference, suite.evaluate.tolerance)
            found["equal"] = is_equal(found["tokens"], budget, step_of(suite, arm))
        arms.append(found)
    _set_beside_random(arms, by_name, folder, results)
    for found in arms:
        found["verdict"] = verdict_of(found)
    published = suite.published
    return {
        "reference": {key: reference[key] for key in _REFERENCE_KEYS if key in reference},
        "arms": arms,
        "budget_tokens": budget,
        "seeds": suite.all_seeds,
        "tolerance": suite.evaluate.tolerance,
        "validation_sequences": reference["validation_sequences"],
        "curve_sequences": min(suite.evaluate.sequences, reference["validation_sequences"]),
        "published": None if published is None else published.model_dump(mode="json"),
    }


def _over_seeds(runs: list[dict[str, Any]], reference: dict[str, Any], tolerance: float) -> dict[str, Any]:
    """An arm's figures, means over its seeds. Each `_se` is the standard error over the validation sequences (of the
    mean over seeds), each `_se_seeds` that over seeds, None with one seed.
    """
    losses = _by_sequence(runs)
    loss, between = mean(losses), gap(losses, reference["sequence_losses"])
    best = mean(_by_sequence(runs, "best_sequence_losses"))
    found = {key: runs[0][key] for key in _SHAPE_KEYS if key in runs[0]}
    for cost in ("tokens", "steps", "flops", "epochs"):  # growth may need more rounds with one seed than with another
        values = {run[cost] for run in runs}
        found[cost] = values.pop() if len(values) == 1 else mean([run[cost] for run in runs]).value
    to_match = [run["flops_to_match"] for run in runs]
    return found | {
        "seconds": mean([run["seconds"] for run in runs]).value,
        "tokens_per_second": mean([run["tokens_per_second"] for run in runs]).value,
        "val_loss": loss.value,
        "val_loss_se": loss.error,
        "val_loss_se_seeds": mean([run["val_loss"] for run in runs]).error,
        "best_val_loss": best.value,
        "best_val_loss_se": best.error,
        "best_val_loss_se_seeds": mean([run["best_val_loss"] for run in runs]).error,
        "gap": between.value,
        "gap_se": between.error,
        "matched": is_matched(between.value, tolerance),
        "flops_to_match": None if None in to_match else mean(to_match).value,
        "model": f"{runs[0]['folder']}/{runs[0]['model']}",
        "runs": [{key: run[key] for key in _RUN_KEYS if key in run} for run in runs],
    }


def _by_sequence(runs: list[dict[str, Any]], key: str = "sequence_losses") -> list[float]:
    """The loss of each validation sequence, its mean over seeds."""
    return [mean(losses).value for losses in zip(*(run[key] for run in runs), strict=True)]


def _set_beside_random(arms: list[dict[str, Any]], planned: dict[str, Planned], folder: Path, results: Runs) -> None:
    """Distance to the random model of the same size (the first one), and how much sooner its final loss is reached."""
    done = [arm for arm in arms if "val_loss" in arm]
    for arm in done:
        random = next((other for other in done if _is_random_of(other, arm, planned)), None)
        if random is None or random is arm:
            continue
        over = gap(_by_sequence(results[arm["name"]]), _by_sequence(results[random["name"]]))
        goal = arm_curve(folder, random)[-1]
        reached = tokens_to_reach(arm_curve(folder, arm), goal["val_loss"])
        steps = None if reached is None else reached * arm["steps"] / arm["tokens"]
        arm |= {
            "random": random["name"],
            "over_random": over.value,
            "over_random_se": over.error,
            "steps_to_random": steps,
            "speed_up": goal["tokens"] / reached if reached else None,
        }


def _is_random_of(random: dict[str, Any], arm: dict[str, Any], planned: dict[str, Planned]) -> bool:
    """Whether `random` is what `arm` is measured by: as large, on the suite's budget, from random weights and the text
    alone.
    """
    settings = planned[random["name"]]
    return (
        random["start"] == "random"
        and random["equal"]
        and random["parameters"] == arm["parameters"]
        and settings.training.distillation is None
        and settings.settings.data == planned[arm["name"]].settings.data
    )
