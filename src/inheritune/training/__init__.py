"""Training a built model on sequences with a loss: optimizer, schedule, checkpoints, loop. Knows no architecture."""

from inheritune.training.checkpoint import (
    TrainProgress,
    fault_of,
    is_checkpoint,
    list_checkpoints,
    model_tensors,
    read_facts,
    read_tensors,
)
from inheritune.training.documents import check_documents_apart, inside_documents
from inheritune.training.float8 import check_float8
from inheritune.training.job import Job, planned_steps
from inheritune.training.loop import train_steps
from inheritune.training.objective import NextToken, TeacherOutputs, at_places
from inheritune.training.optimizer import (
    allocate_state,
    build_optimizer,
    check_optimizer,
    check_shardable,
    load_state,
    set_learning_rate,
    state_tensors,
    step_if_finite,
)
from inheritune.training.parallel import check_compiler, choose, lacking_compiler, spread, whole_state
from inheritune.training.schedule import check_schedule, learning_rate

__all__ = [
    "Job",
    "NextToken",
    "TeacherOutputs",
    "TrainProgress",
    "allocate_state",
    "at_places",
    "build_optimizer",
    "check_compiler",
    "check_documents_apart",
    "check_float8",
    "check_optimizer",
    "check_schedule",
    "check_shardable",
    "choose",
    "fault_of",
    "inside_documents",
    "is_checkpoint",
    "lacking_compiler",
    "learning_rate",
    "list_checkpoints",
    "load_state",
    "model_tensors",
    "planned_steps",
    "read_facts",
    "read_tensors",
    "set_learning_rate",
    "spread",
    "state_tensors",
    "step_if_finite",
    "train_steps",
    "whole_state",
]
