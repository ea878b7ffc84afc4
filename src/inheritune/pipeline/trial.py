"""`run --dry-run`: one real step of the deepest target, before anything is spent."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import layer_count, planned_config
from inheritune.bench import one_step
from inheritune.growth import check_rounds
from inheritune.inheritance import replace_budget, resolve, target_config
from inheritune.pipeline.preflight import check_inputs
from inheritune.recipe import Recipe, Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Check a recipe's inputs and train the deepest target that its rounds may come to for a step, with random weights.

    Writes nothing that stays. Raises InputError for wrong input; what the step raises comes through (out of memory).
    """
    hardware = recipe.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)
    runtime.on_rank0(lambda: check_inputs(recipe, runtime))
    config = planned_config(recipe.reference, recipe.train.sequence_length)
    total = layer_count(config)
    inherit = replace_budget(config, recipe.inherit, recipe.reference.trust_remote_code)
    kept = max(check_rounds(inherit, recipe.grow, total), key=len)
    teacher = config if recipe.train.distillation is not None else None
    target = target_config(config, resolve(inherit, config, kept))
    return {"layers": len(kept), **try_step(target, recipe.train, runtime, teacher)}


def try_step(
    config: "PretrainedConfig", training: Training, runtime: rt.Runtime, teacher: "PretrainedConfig | None" = None
) -> dict[str, Any]:
    """One step of a random model of this config: seconds, tokens a second (not compiled), peak memory in bytes.

    With a distillation, a random model of the config `teacher` passes the batch too.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = one_step(config, training, runtime, Path(folder), teacher)
    return {
        "batch_tokens": training.batch_tokens,
        "seconds": found["seconds"],
        "tokens_per_second": training.batch_tokens / found["seconds"],
        "memory": found["memory"],
    }
