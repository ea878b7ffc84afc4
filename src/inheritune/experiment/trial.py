"""A dry run: the inputs are checked, a real step is measured, and what the whole run will take follows from it."""

import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import build_skeleton, training_flops_per_token
from inheritune.bench import one_step
from inheritune.errors import InputError, is_out_of_memory
from inheritune.experiment.checks import check_recipe
from inheritune.experiment.plan import Models, plan_rounds
from inheritune.experiment.pricing import plan_recipe
from inheritune.experiment.recovery import provisional, usable_memory
from inheritune.experiment.text_size import text_size
from inheritune.planner import SUMS, measured_here
from inheritune.recipe import Recipe, Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def dry_run(recipe: Recipe) -> dict[str, Any]:
    """Check a recipe's inputs and train the deepest target that its rounds may come to for a step, with random weights.

    `hours` are those of the whole run at the measured rate, at least and at most. The rate is remembered for `plan`;
    nothing else stays. Raises InputError for wrong input; what the step raises comes through (out of memory).
    """
    hardware = recipe.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)
    runtime.on_rank0(lambda: check_recipe(recipe, runtime))
    models = Models(recipe, drafts=False)
    settled, _ = provisional(
        recipe, models, usable_memory(runtime), text_size(recipe, models.reference.vocab_size).train
    )
    _, stages = plan_rounds(settled, models)
    deepest = max(stages, key=lambda stage: len(stage.blocks))
    target = models.target(models.reference, deepest)
    teacher = models.reference if settled.train.distillation is not None else None
    trial = try_step(target, settled.train, runtime, teacher, deepest.blocks)
    length = settled.train.sequence_length
    flops: float = training_flops_per_token(build_skeleton(target, models.trust), length)
    if teacher is not None:
        flops += training_flops_per_token(build_skeleton(teacher, models.trust), length) / 3  # forward only
    of = f"{len(deepest.blocks)} blocks of {recipe.reference.title}"
    rate = measured_here(flops * trial["tokens_per_second"], runtime.describe(), of, trial["memory"]["peak_bytes"])
    runtime.on_rank0(rate.remember)
    hours = plan_recipe(recipe, [rate.device])["devices"][0]["hours"]
    return {"layers": len(deepest.blocks), **trial, "hours": {key: hours[key][0] for key in SUMS}}


def try_step(
    config: "PretrainedConfig", training: Training, runtime: rt.Runtime, teacher: "PretrainedConfig | None" = None,
    blocks: Sequence[int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """One step of a random model of this config: seconds, tokens a second (not compiled), peak memory in bytes.

    With a distillation, a random model of the config `teacher` passes the batch too; `blocks` are those of it that the
    model's come from. `rounded_down` says what whole steps make of a length in tokens.
    """
    try:
        step = one_step(config, training, runtime, tempfile.gettempdir(), teacher, blocks)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        what = f"a model of its config cannot be trained ({type(error).__name__}: {error})"
        raise InputError(config.name_or_path or config.model_type, what, "correct the config") from None
    return {
        "batch_tokens": training.batch_tokens,
        "seconds": step["seconds"],
        "tokens_per_second": training.batch_tokens / step["seconds"],
        "memory": step["memory"],
        "rounded_down": training.rounded_down(None),
    }
