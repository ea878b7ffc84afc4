"""The whole plan of a list of trainings, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inheritune.planner.costs import Conditions, Planned, disk, figures, memory_table, most_demanding, on_device, sums
from inheritune.planner.devices import Device
from inheritune.planner.fitting import fit
from inheritune.planner.limits import warnings

LEFT_OUT = (
    "memory: what CUDA, NCCL and the allocator's gaps take (plan with 92 % of a device), and what torch.compile saves;"
    " models are built in the host's memory first",
    "time: reading and preparing text, loading and compiling, checkpoints, waiting for other devices;"
    " several devices count as that many times one",
    "disk: what preparing keeps beside the tokens for its next start, and the reference's own files",
)
"""What no figure of a plan has in it."""


@dataclass(frozen=True)
class Bounds:
    """A plan turned round: bytes of a device's memory and hours that are to be kept; one of the trainings, and such as
    it with other numbers of blocks, by rising depth.
    """

    memory: float | None
    hours: float | None
    own: Planned
    candidates: Sequence[Planned]


def plan(
    trainings: Sequence[Planned], conditions: Conditions, devices: Sequence[Device], bounds: Bounds | None = None
) -> dict[str, Any]:
    """What the trainings cost and whether they can work, as JSON values: FLOPs, bytes, hours, dollars.

    `memory` is that of the largest model that is trained. `least` counts the trainings that are certain, `most` all.
    Takes about a second for a reference of 30 blocks; nothing is loaded.
    """
    found = [figures(planned, conditions) for planned in trainings]
    largest = most_demanding(trainings)
    rows = [on_device(device, trainings, found, conditions) for device in devices]
    vocabulary = largest.config.vocab_size
    result: dict[str, Any] = {
        "trainings": found,
        "flops": sums(trainings, found),
        "memory_of": largest.name,
        "memory": memory_table(largest),
        "memory_is_whole": largest.profile.unfollowed is None,
        "sequence_length": largest.training.sequence_length,
        "text": {"train_tokens": conditions.train_tokens, "validation_tokens": conditions.validation_tokens},
        "disk": disk(trainings, found, conditions, vocabulary),
        "devices": rows,
        "warnings": warnings(trainings, found, rows, conditions, None if bounds is None else bounds.hours),
        "left_out": list(LEFT_OUT),
    }
    if bounds is not None:
        result["fit"] = fit(bounds.candidates, bounds.own, bounds.memory, bounds.hours, devices, conditions)
    return result
