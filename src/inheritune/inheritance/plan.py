"""A plan: for each tensor of the target, the tensor of the reference that it is copied from. Data, without weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inheritune.arch import Structure
from inheritune.errors import InputError


@dataclass(frozen=True)
class Copy:
    """One line of a plan: the target's tensor `target` is the reference's tensor `source`, of this shape."""

    target: str
    source: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How a target gets its weights. `dropped` are the reference's tensors that are left behind on purpose."""

    kept: tuple[int, ...]
    total: int
    copies: tuple[Copy, ...]
    dropped: tuple[str, ...]


def plan_copies(
    source: Mapping[str, tuple[int, ...]],
    target: Mapping[str, tuple[int, ...]],
    structure: Structure,
    kept: list[int],
) -> Plan:
    """Map every target tensor to its source: block i to block kept[i], all else (embeddings, final norm, head) by name.

    `source` and `target` map tensor names to shapes. Raises InputError when a tensor has no source, its shape
    differs, or a tensor outside the blocks would be left behind.
    """
    copies = []
    for name, shape in target.items():
        place = structure.split(name)
        origin = name if place is None else structure.name_in(kept[place[0]], place[1])
        if origin not in source:
            raise InputError(
                name, "the reference has no tensor for it", "choose blocks of the same kind for these places"
            )
        if source[origin] != shape:
            raise InputError(
                name,
                f"has shape {shape}, its source {origin} {source[origin]}",
                "choose blocks of the same kind for these places",
            )
        copies.append(Copy(name, origin, shape))
    used = {copy.source for copy in copies}
    dropped = [name for name in source if name not in used]
    for name in dropped:
        place = structure.split(name)
        if place is None or place[0] in kept:
            raise InputError(
                name,
                "would be left behind, though it is outside the dropped blocks",
                "report this architecture",
            )
    return Plan(tuple(kept), structure.count, tuple(copies), tuple(dropped))


def describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan in figures, for manifests."""
    return {
        "blocks": list(plan.kept),
        "of": plan.total,
        "tensors_copied": len(plan.copies),
        "tensors_dropped": len(plan.dropped),
    }
