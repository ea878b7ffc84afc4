"""The best weights on the way of a training, judged like the last ones."""

import tempfile
from pathlib import Path
from typing import Any

from inheritune.arm import Conditions
from inheritune.conversion import export
from inheritune.runlog import read_metrics
from inheritune.training import is_checkpoint


def best_figures(folder: Path, stage: dict[str, Any], conditions: Conditions) -> dict[str, Any]:
    """Best validation loss of a stage's training, its standard error and its step, on all validation sequences.

    The best step is that of the lowest loss on the way; where it is the last one, or the recipe keeps no best weights,
    the figures are the final ones. A training's start (step 0) does not count.
    """
    runtime, place = conditions.runtime, folder / stage["folder"]
    best = place / "checkpoints" / "best"

    def look() -> int | None:
        passed = [record for record in read_metrics(place / "metrics.jsonl") if "val_loss" in record and record["step"]]
        step: int = min(passed, key=lambda record: record["val_loss"])["step"] if passed else stage["steps"]
        return None if step == stage["steps"] or not is_checkpoint(best) else step

    step: int | None = runtime.on_rank0(look)
    final = {
        "best_val_loss": stage["val_loss"],
        "best_val_loss_se": stage["val_loss_se"],
        "best_step": stage["steps"],
        "best_sequence_losses": stage["sequence_losses"],
    }
    if step is None:
        return final
    with tempfile.TemporaryDirectory() as nowhere:
        model, facts = export(best, Path(nowhere) / "best", trust_remote_code=conditions.trust_remote_code)
    judged = conditions.judge(model)
    if judged.loss.value >= stage["val_loss"]:  # fewer sequences on the way said otherwise
        return final
    return {
        "best_val_loss": judged.loss.value,
        "best_val_loss_se": judged.loss.error,
        "best_step": facts["step"],
        "best_sequence_losses": list(judged.losses),
    }
