"""The description of one training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from inheritune.arch import Head
from inheritune.data import Examples, Sequences
from inheritune.errors import InputError
from inheritune.losses import CrossEntropy, Loss
from inheritune.recipe import Training
from inheritune.runlog import Trackers
from inheritune.runtime import Runtime
from inheritune.training.objective import TeacherOutputs
from inheritune.training.schedule import check_schedule

Score = Callable[[Examples], torch.Tensor]
"""From examples the cross-entropy of each target (B, T) in nats; 0 where it does not count."""


@dataclass(frozen=True)
class Job:
    """One training. `model` is trained in place, in float32, on the runtime's device.

    `validate` computes a loss for the curves every `validate_every` steps, with a function that scores examples.

    `blocks` are the model's blocks, `matrices` the names of their two-dimensional weights, `head` splits the model into
    hidden states and a linear layer (None: it is not split). `parallel` is the recipe's key for several processes.
    `losses` are what the training minimises; `teacher` has the outputs that they ask for. `fading` are places of blocks
    whose part in the model falls to nothing (`Objective`).
    `gives_up` says, on rank 0 after each validation, whether the training shall end there.
    `live`: whether a person sees the steps while they run. `queued`: how many steps are queued before the results of an
    earlier one are read (None: 1 on a GPU, else 0).
    """

    label: str
    model: torch.nn.Module
    sequences: Sequences
    settings: Training
    seed: int
    folder: Path
    runtime: Runtime
    validate: Callable[[Score], float]
    validate_every: int
    blocks: Sequence[torch.nn.Module] = ()
    matrices: frozenset[str] = frozenset()
    head: Head | None = None
    vocabulary: int = 1
    parallel: str = "auto"
    trackers: Trackers | None = None
    teacher: TeacherOutputs | None = None
    losses: tuple[Loss, ...] = (CrossEntropy(),)
    live: bool = True
    queued: int | None = None
    gives_up: Callable[[], bool] | None = None
    fading: Sequence[int] = ()


def planned_steps(settings: Training, sequences: Sequences) -> int:
    """Optimizer steps of a training. Raises InputError for less than one step, or a schedule that does not fit."""
    steps = settings.steps(sequences.count)
    if steps < 1:
        raise InputError(
            "train.length",
            f"{settings.length} is less than one step of {settings.batch_tokens:,} tokens",
            "give a longer length or a smaller batch",
        )
    warm_up = settings.warm_up_steps(steps)
    if warm_up >= steps and steps > 1:
        raise InputError("train.schedule.warm_up", f"{warm_up} of {steps} steps", "give fewer warm-up steps than steps")
    check_schedule(settings, steps)
    return steps
