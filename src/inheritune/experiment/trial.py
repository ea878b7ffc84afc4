"""`run --dry-run`: one real step of the deepest target, before anything is spent."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.bench import one_step
from inheritune.errors import InputError
from inheritune.experiment.checks import check_recipe
from inheritune.experiment.plan import Models, plan_rounds
from inheritune.recipe import Recipe, Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Check a recipe's inputs and train the deepest target that its rounds may come to for a step, with random weights.

    Writes nothing that stays. Raises InputError for wrong input; what the step raises comes through (out of memory).
    """
    hardware = recipe.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)
    runtime.on_rank0(lambda: check_recipe(recipe, runtime))
    models = Models(recipe, drafts=False)
    _, stages = plan_rounds(recipe, models)
    deepest = max(stages, key=lambda stage: len(stage.blocks))
    target = models.target(models.reference, deepest)
    teacher = models.reference if recipe.train.distillation is not None else None
    return {"layers": len(deepest.blocks), **try_step(target, recipe.train, runtime, teacher)}


def try_step(
    config: "PretrainedConfig", training: Training, runtime: rt.Runtime, teacher: "PretrainedConfig | None" = None
) -> dict[str, Any]:
    """One step of a random model of this config: seconds, tokens a second (not compiled), peak memory in bytes.

    With a distillation, a random model of the config `teacher` passes the batch too.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = one_step(config, training, runtime, Path(folder), teacher)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
            raise
        what = f"a model of its config cannot be trained ({type(error).__name__}: {error})"
        raise InputError(config.name_or_path or config.model_type, what, "correct the config") from None
    return {
        "batch_tokens": training.batch_tokens,
        "seconds": found["seconds"],
        "tokens_per_second": training.batch_tokens / found["seconds"],
        "memory": found["memory"],
    }
