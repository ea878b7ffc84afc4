"""summary.json: the results of a run, from the figures of its arms. Pure functions."""

from typing import Any

from inheritune.growth import best_round
from inheritune.recipe import Recipe

_ROUND_KEYS = (
    "layers", "parameters", "blocks", "tokens", "epochs", "steps", "left_over_tokens", "flops", "val_loss",
    "val_loss_se", "gap", "gap_se", "tokens_before", "steps_before", "flops_before", "teacher_outputs",
    "teacher_flops", "teacher_flops_before", "teacher_seconds", "matched",
    "tokens_per_second", "seconds", "model",
)  # fmt: skip
_REFERENCE_KEYS = (
    "layers",
    "parameters",
    "val_loss",
    "val_loss_se",
    "tokens",
    "epochs",
    "steps",
    "left_over_tokens",
    "flops",
    "tokens_per_second",
    "seconds",
)
SUMMARY_KEYS = ("reference.name", "rounds", "controls", "result.model", "tolerance", "validation_sequences")
"""What summary.json of a finished run is needed for."""


def summarise(
    recipe: Recipe, reference: dict[str, Any], rounds: list[dict[str, Any]], controls: list[dict[str, Any]],
    wall_seconds: float, peak_memory: int, finished: bool,
) -> dict[str, Any]:  # fmt: skip
    """What summary.json holds. Losses and gaps in nats a token; model paths relative to the run's folder.

    `wall_seconds` adds up the stages as they were finished; work that an interruption lost is not in it.
    """
    best = best_round(rounds)
    shown = [_pick(found, _ROUND_KEYS) | {"model": f"rounds/{found['folder']}/model"} for found in rounds]
    result = {key: best[key] for key in ("matched", "layers", "parameters", "val_loss", "val_loss_se", "gap", "gap_se")}
    result["model"] = f"rounds/{best['folder']}/model"
    return {
        "finished": finished,
        "reference": {"name": recipe.reference.title, **_pick(reference, _REFERENCE_KEYS)},
        "rounds": shown,
        "controls": [
            {"name": found["name"], **_pick(found, (*_ROUND_KEYS, "over_result", "over_result_se"))}
            | {"model": f"controls/{found['folder']}/model"}
            for found in controls
        ],
        "result": result,
        "tolerance": recipe.evaluate.tolerance,
        "validation_sequences": reference["validation_sequences"],
        "wall_seconds": wall_seconds,
        "peak_memory_bytes": peak_memory,
    }


def _pick(found: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: found[key] for key in keys if key in found}
