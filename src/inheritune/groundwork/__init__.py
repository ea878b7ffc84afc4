"""What a run and a comparison both begin with: their text as data, their reference, and the checks of both."""

from inheritune.groundwork.checks import check_basis, check_folder, check_hardware
from inheritune.groundwork.planning import planned, planned_reference, sequences_in, steps_in, taught, text_size
from inheritune.groundwork.stages import Groundwork, reference_training
from inheritune.groundwork.text import prepare_data

__all__ = [
    "Groundwork",
    "check_basis",
    "check_folder",
    "check_hardware",
    "planned",
    "planned_reference",
    "prepare_data",
    "reference_training",
    "sequences_in",
    "steps_in",
    "taught",
    "text_size",
]
