"""Training a built model on sequences with a loss: optimizer, schedule, checkpoints, loop. Knows no architecture."""

from inheritune.training.checkpoint import Position, list_checkpoints, restore_newest, save_checkpoint
from inheritune.training.loop import Job, planned_steps, train_steps
from inheritune.training.optimizer import build_optimizer, learning_rate

__all__ = [
    "Job",
    "Position",
    "build_optimizer",
    "learning_rate",
    "list_checkpoints",
    "planned_steps",
    "restore_newest",
    "save_checkpoint",
    "train_steps",
]
