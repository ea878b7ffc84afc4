"""What trainings will cost and whether they can work, from configs alone: no weights are loaded, nothing is run.

`plan` takes a list of trainings, whoever makes it up: a recipe's rounds and controls, or a suite's arms.
"""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.planner.costs import SUMS, Conditions, HeadRuns, Planned, Taught, counted_flops, figures
    from inheritune.planner.devices import (
        DEVICES,
        Device,
        by_cuda_name,
        choose_devices,
        known_devices,
        measured_device,
    )
    from inheritune.planner.measured_rate import MeasuredRate, measured_here, remembered_rate
    from inheritune.planner.memory import Memory, MemoryConfig, largest_micro_batch, memory_of, state_bytes
    from inheritune.planner.model_profile import ModelProfile
    from inheritune.planner.planning import Bounds, plan

__getattr__, __dir__ = lazy.exports(__name__)
