"""The tuned reference: the reference trained on the run's own text first, up to where held-out text says to stop."""

import math
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inheritune.arch import build_skeleton, load_config, load_model, parameter_count, training_flops_per_token
from inheritune.conversion import export
from inheritune.data import Sequences, clusters_of
from inheritune.errors import Diverged, InputError
from inheritune.experiment.context import RunContext
from inheritune.experiment.training_run import TrainingRun, train_once
from inheritune.recipe import Basis, Reference, Size, Training, reference_training
from inheritune.results import TrainingCost
from inheritune.runlog import logger, read_metrics
from inheritune.training import planned_steps

MODEL = "model"
_TRAINING = "tuning"
_LOOKS = 10  # at the held-out text during the training
_PLACE = "reference.tune"


@dataclass(frozen=True)
class Tuned:
    """A reference's tuning: what it cost, the step whose weights were taken (0: its own), and the losses on the
    `sequences` held out, by step.
    """

    cost: TrainingCost
    step: int
    sequences: int
    losses: dict[int, float]


def tune(reference: Reference, basis: Basis, context: RunContext, folder: Path) -> Tuned:
    """Train a reference on the training text without the part held out, and put the best weights into `folder`/model.

    That folder is absent where no step was better than the reference on the part held out. Resumes an unfinished
    training; one that diverges ends there. Raises InputError where the text is too small.
    """
    settings = reference_training(basis)
    assert settings is not None
    assert reference.tune is not None
    text = context.train_sequences
    held_out = math.ceil(text.count * reference.tune.held_out.amount / 100)
    if held_out >= text.count:
        what = f"the training text has {text.count} sequence, and one is held out"
        raise InputError(_PLACE, what, "give more text, or take the reference as it is (tune: null)")
    own, held = text.part(0, text.count - held_out), text.part(text.count - held_out, held_out)
    settings = settings.model_copy(update={"checkpoint": settings.checkpoint.model_copy(update={"best": True})})
    every = max(1, planned_steps(settings, own) // _LOOKS)
    evaluate = context.evaluate.model_copy(update={"every": Size(every, "steps"), "sequences": held_out})
    context = replace(
        context, training=settings, evaluate=evaluate, train_sequences=own, validation_sequences=held,
        clusters=clusters_of(held), judged=None,
    )  # fmt: skip
    run = TrainingRun("reference, tuning", folder / _TRAINING, lambda: load_model(reference), settings)
    cost: TrainingCost | None = None
    try:
        cost = train_once(run, context)
    except Diverged as error:
        logger.warning(f"{error}. Tuning ends here, with the best weights so far on the text held out")
    last = None if cost is None else cost.steps

    def choose() -> tuple[int, dict[int, float]]:
        records = read_metrics(run.folder / "metrics.jsonl")
        losses = {one["step"]: one["val_loss"] for one in records if "val_loss" in one}
        step = min(losses, key=lambda one: losses[one])
        _put_weights(folder / MODEL, run.folder, step, last, context.trust_remote_code)
        return step, losses

    step, losses = context.runtime.on_rank0(choose)
    cost = cost or context.runtime.on_rank0(lambda: _cost_so_far(reference, settings, own, run.folder))
    return Tuned(cost, step, held_out, losses)


def _cost_so_far(reference: Reference, settings: Training, text: Sequences, folder: Path) -> TrainingCost:
    """What a training that diverged has cost up to its last good step."""
    model = build_skeleton(load_config(reference), reference.trust_remote_code)
    last: dict[str, Any] = next((one for one in reversed(read_metrics(folder / "metrics.jsonl")) if "loss" in one), {})
    steps, seconds = last.get("step", 0), last.get("seconds", 0.0)
    tokens = steps * settings.batch_tokens
    return TrainingCost(
        layers=model.config.num_hidden_layers, parameters=parameter_count(model), tokens=tokens, steps=steps,
        epochs=round(steps * settings.batch_sequences / text.count, 4), left_over_tokens=0,
        flops=tokens * training_flops_per_token(model, settings.sequence_length),
        tokens_per_second=round(tokens / seconds, 1) if seconds else None, seconds=seconds, wall_seconds=seconds,
    )  # fmt: skip


def _put_weights(place: Path, training: Path, step: int, last: int | None, trust_remote_code: bool) -> None:
    """Put the weights of a step of a training into `place`; remove what is there where the step is 0.

    `last` is the training's last step, None where it has not come to its end.
    """
    if place.is_symlink():
        place.unlink()
    elif place.exists():
        shutil.rmtree(place)
    if step == last:
        with suppress(OSError):  # a disk without links
            place.symlink_to(os.path.relpath(training / "model", place.parent), target_is_directory=True)
            return
        shutil.copytree(training / "model", place)
    elif step:
        logger.info(f"reference, tuning: the weights after step {step:,} are the best on the text held out")
        export(training / "checkpoints" / "best", place, trust_remote_code=trust_remote_code)
