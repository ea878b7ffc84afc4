"""What one training needs to know."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.data import Examples, Sequences
from inheritune.errors import InputError
from inheritune.recipe import Training
from inheritune.runlog import Terminal, Trackers
from inheritune.runtime import Runtime
from inheritune.training.schedule import check_schedule

if TYPE_CHECKING:
    import torch

    from inheritune.training.objective import LinearHead, RouterTerm, TeacherOutputs

    Score = Callable[[Examples], torch.Tensor]
    """From examples the mean loss of each sequence (B,), in nats a token."""


@dataclass(frozen=True)
class Job:
    """One training. `model` is trained in place, in float32, on the runtime's device.

    `validate` gives, from what scores sequences, a loss for the curves every `validate_every` steps;
    it decides nothing.

    `blocks` are the model's blocks, `matrices` the names of their two-dimensional weights, `head` how it ends in a
    linear layer (None: its logits are taken as they are). `parallel` is the recipe's word for several processes.
    `teacher` is whose outputs the model learns from besides the text. `router` is the
    term that balances a mixture's experts, where it is added to the loss.
    """

    label: str
    model: "torch.nn.Module"
    sequences: Sequences
    settings: Training
    seed: int
    folder: Path
    runtime: Runtime
    terminal: Terminal
    validate: "Callable[[Score], float]"
    validate_every: int
    blocks: "Sequence[torch.nn.Module]" = ()
    matrices: frozenset[str] = frozenset()
    head: "LinearHead | None" = None
    vocabulary: int = 1
    parallel: str = "auto"
    trackers: Trackers | None = None
    teacher: "TeacherOutputs | None" = None
    router: "RouterTerm | None" = None


def planned_steps(settings: Training, sequences: Sequences) -> int:
    """Optimizer steps of a training. Raises InputError when it is less than a step or its schedule does not fit."""
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
