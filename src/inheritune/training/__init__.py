"""Training a built model on sequences with a loss: optimizer, schedule, checkpoints, loop. Knows no architecture."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.training.checkpoint import (
        TrainProgress,
        fault_of,
        is_checkpoint,
        list_checkpoints,
        model_tensors,
        read_facts,
        read_tensors,
    )
    from inheritune.training.documents import check_documents_apart, model_inputs
    from inheritune.training.float8 import check_float8
    from inheritune.training.job import Job, planned_steps
    from inheritune.training.loop import train_steps
    from inheritune.training.objective import Objective, TeacherOutputs, at_places
    from inheritune.training.parallel import (
        SHARDED,
        check_compiler,
        check_parallel,
        choose,
        lacking_compiler,
        parallelize,
        whole_state,
    )
    from inheritune.training.schedule import check_schedule, learning_rate

__getattr__, __dir__ = lazy.exports(__name__)
