"""Training a built model on sequences with a loss: optimizer, schedule, checkpoints, loop. Knows no architecture."""

from inheritune.training.checkpoint import Position, fault_of, list_checkpoints
from inheritune.training.job import Job, planned_steps
from inheritune.training.loop import train_steps
from inheritune.training.objective import NextToken
from inheritune.training.optimizer import build_optimizer
from inheritune.training.parallel import choose, spread, whole_state
from inheritune.training.schedule import learning_rate

__all__ = [
    "Job",
    "NextToken",
    "Position",
    "build_optimizer",
    "choose",
    "fault_of",
    "learning_rate",
    "list_checkpoints",
    "planned_steps",
    "spread",
    "train_steps",
    "whole_state",
]
