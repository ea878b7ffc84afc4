"""A teacher's distributions over the training text: computed with every batch, or once and kept for all trainings."""

from inheritune.distillation.choice import Estimate
from inheritune.distillation.layout import Layout
from inheritune.distillation.outputs import OnlineOutputs, StoredOutputs
from inheritune.distillation.teacher import (
    Lesson,
    Teacher,
    check_distillation,
    check_has_teacher,
    check_same_vocabulary,
    open_teacher,
)

__all__ = [
    "Estimate",
    "Layout",
    "Lesson",
    "OnlineOutputs",
    "StoredOutputs",
    "Teacher",
    "check_distillation",
    "check_has_teacher",
    "check_same_vocabulary",
    "open_teacher",
]
