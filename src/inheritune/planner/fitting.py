"""A plan turned round: from memory and time to the number of blocks, micro-batch and tokens that fit."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inheritune.planner.costs import Conditions, Planned, figures, memory_config_of, resolved
from inheritune.planner.devices import USABLE, Device
from inheritune.planner.memory import MemoryConfig, largest_micro_batch

_SHOWN = 10  # depths, beside the recipe's own


def savings(planned: Planned, devices: int) -> dict[str, MemoryConfig]:
    """The recipe's way of training, and what it could change to save memory, by name, the most expensive last."""
    setup = memory_config_of(planned, resolved(planned.training.precision, None), devices)
    setups = {"as the recipe says": setup}
    if not setup.activation_checkpointing:
        setups["activation_checkpointing"] = replace(setup, activation_checkpointing=True)
    plain = list(setups.items())
    for override, optimizer in setup.optimizer.less_memory().items() if devices == 1 else ():
        for name, each in plain:
            setups[f"{name}, {override}".removeprefix("as the recipe says, ")] = replace(each, optimizer=optimizer)
    return setups


def fit(
    candidates: Sequence[Planned], own: Planned, memory: float | None, hours: float | None, devices: Sequence[Device],
    conditions: Conditions,
) -> dict[str, Any]:  # fmt: skip
    """Which of `candidates`, by rising depth, can be trained on devices of `memory` bytes, of which a share stays free
    for the allocator's gaps, and in `hours`.

    `own` is the recipe's. For each shown depth: the least saving that makes it fit, the largest micro-batch, and from
    and to which number of tokens the time lasts on each device. `most_blocks` says how deep each saving reaches.
    """
    setups = savings(own, conditions.devices)
    share = math.ceil(own.training.batch_sequences / conditions.devices)
    room = None if memory is None else USABLE * memory
    reach = {name: _deepest(candidates, setup, room) for name, setup in setups.items()}
    deepest = max(reach.values())
    depths = _spread([len(each.kept) for each in candidates if len(each.kept) <= deepest], len(own.kept))
    rows = []
    for planned in (each for each in candidates if len(each.kept) in depths):
        name, setup = next((name, setup) for name, setup in setups.items() if reach[name] >= len(planned.kept))
        size = setup.micro_batch
        if room is not None:
            size = largest_micro_batch(planned.profile, planned.kept, setup, share, room)
        row: dict[str, Any] = {"blocks": len(planned.kept), "settings": name, "micro_batch": size}
        estimate = figures(planned, conditions)
        row |= {"parameters": estimate["parameters"]["total"], "flops_per_token": estimate["flops_per_token"]}
        if hours is not None:
            row["tokens"] = {
                device.name: _tokens(planned, estimate, setup, device, hours, conditions) for device in devices
            }
        rows.append(row)
    return {
        "memory": memory, "usable": USABLE, "hours": hours, "batch_sequences": own.training.batch_sequences,
        "batch_tokens": own.training.batch_tokens, "most_blocks": reach, "rows": rows,
    }  # fmt: skip


def _deepest(candidates: Sequence[Planned], setup: MemoryConfig, memory: float | None) -> int:
    """The most blocks that fit with one sequence at once; 0 for none."""
    deepest = 0
    for planned in candidates:
        if memory is not None and not largest_micro_batch(planned.profile, planned.kept, setup, 1, memory):
            break
        deepest = len(planned.kept)
    return deepest


def _spread(depths: Sequence[int], own: int) -> set[int]:
    """At most `_SHOWN` depths evenly over all, the first and the last, and the recipe's own where it is among them."""
    if len(depths) <= _SHOWN:
        return set(depths)
    step = (len(depths) - 1) / (_SHOWN - 1)
    return {depths[round(at * step)] for at in range(_SHOWN)} | ({own} & set(depths))


def _tokens(
    planned: Planned, estimate: dict[str, Any], setup: MemoryConfig, device: Device, hours: float,
    conditions: Conditions,
) -> list[int]:  # fmt: skip
    """Tokens of training that end within the time, whole steps, at the slowest and the fastest expected rate."""
    training = planned.training
    again = setup.activation_checkpointing and not training.activation_checkpointing
    work, teacher = estimate["device_flops"] - estimate["evaluation_flops"], estimate["teacher"]
    each = work / planned.tokens * (4 / 3 if again else 1)
    if teacher is not None:
        passes = teacher["flops"] if teacher["outputs"] == "online" else 0
        each += (passes + teacher["head_flops"]) / planned.tokens
    rates = device.rates(resolved(training.precision, device))
    share = work / estimate["device_flops"]  # the rest is for judging
    tokens = [3600 * hours * rate * conditions.devices * share / each for rate in rates]
    return [int(count) // training.batch_tokens * training.batch_tokens for count in tokens]
