"""A teacher's distributions over the training text: computed with every batch, or once and kept for all trainings."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.distillation.choice import Estimate
    from inheritune.distillation.layout import Layout
    from inheritune.distillation.outputs import OnlineOutputs, StoredOutputs
    from inheritune.distillation.teacher import (
        DistillationRequest,
        Teacher,
        check_distillation,
        check_has_teacher,
        check_same_vocabulary,
        open_teacher,
    )

__getattr__, __dir__ = lazy.exports(__name__)
