"""A plan: for each tensor of the target, where it comes from. Data, made without weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from inheritune.arch import Rescale, Runs, Structure, composed, length, lengths, packed_dimension
from inheritune.errors import InputError

Shape = tuple[int, ...]
_MANY_RUNS = 50  # of which not each one is written out


@dataclass(frozen=True)
class TensorCopy:
    """One tensor of the target, of this shape.

    `source` is the reference's tensor that it is made from. Without one, all its entries are `value`, or (None) it is
    initialised as the architecture does it. `indices` are those taken along each dimension of the source, as half-open
    ranges; None takes all of it. `rescale` multiplies a slice of the result, so that a block keeps its function at its
    new place.
    """

    target: str
    shape: Shape
    source: str | None
    indices: tuple[Runs, ...] | None = None
    rescale: Rescale | None = None
    value: float | None = None


@dataclass(frozen=True)
class Plan:
    """How a target gets its weights.

    `kept` are the reference's blocks at the target's places, of `total`; `dropped` are the reference's tensors that are
    excluded on purpose; `tied` maps second names of the target's tensors to the first.
    """

    kept: tuple[int, ...]
    total: int
    lines: tuple[TensorCopy, ...]
    dropped: tuple[str, ...]
    tied: tuple[tuple[str, str], ...] = ()

    @property
    def fresh(self) -> tuple[str, ...]:
        """The target's tensors that are initialised as the architecture does it."""
        return tuple(line.target for line in self.lines if line.source is None and line.value is None)

    @property
    def unstored(self) -> frozenset[str]:
        """The target's tensors that take nothing from the reference, under all their names."""
        alone = {line.target for line in self.lines if line.source is None}
        return frozenset(alone | {alias for alias, name in self.tied if name in alone})

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of the target is one of the reference's as it is, so that nothing is computed."""
        return all(line.source and line.indices is None and line.rescale is None for line in self.lines)

    def wanted(self) -> dict[str, tuple[str, ...]]:
        """For each used tensor of the reference, the target's tensors that are made from it."""
        targets: dict[str, tuple[str, ...]] = {}
        for line in self.lines:
            if line.source is not None:
                targets[line.source] = (*targets.get(line.source, ()), line.target)
        return targets


def plan_copies(
    source: Mapping[str, Shape],
    target: Mapping[str, Shape],
    structure: Structure,
    kept: list[int],
    *,
    tied: Mapping[str, str] | None = None,
    inherited: frozenset[str] | None = None,
    rescales: Mapping[str, Rescale] | None = None,
    values: Mapping[str, float] | None = None,
) -> Plan:
    """Map every target tensor to its source: place i to block kept[i], all else (embeddings, final norm, head) by name.

    `source` and `target` map tensor names to shapes. All else goes by the target's names: `tied` maps second names of
    tensors to the first, `inherited` are the tensors that are copied (None: all), `rescales` is what multiplies a
    tensor, `values` is what fills one that its source block lacks.

    Raises InputError when a tensor has no source, its shape differs, or a tensor outside the dropped blocks would be
    left behind by accident.
    """
    tied, rescales, values = tied or {}, rescales or {}, values or {}
    lines, used = [], set()
    for name, shape in target.items():
        where = structure.split(name)
        origin = name if where is None else structure.name_in(kept[where[0]], where[1])
        if name in values:
            lines.append(TensorCopy(name, shape, None, value=values[name]))
            continue
        indices = _packed_indices(name, source, structure, kept) if where is None else None
        remedy = "choose blocks of the same kind for these places"
        if origin not in source:
            raise InputError(name, "the reference has no tensor for it", remedy)
        taken = source[origin] if indices is None else lengths(indices)
        if taken != shape:
            raise InputError(name, f"has shape {shape}, its source {origin} {taken}", remedy)
        used.add(origin)
        if name in tied:
            continue
        if inherited is not None and name not in inherited:
            lines.append(TensorCopy(name, shape, None))
        else:
            lines.append(TensorCopy(name, shape, origin, indices, rescales.get(name)))
    for name in source.keys() - used:
        where = structure.split(name)
        if where is None or where[0] in kept:
            raise InputError(
                name, "would be left behind, though it is outside the dropped blocks", "report this architecture"
            )
    copied = {line.source for line in lines} | set(tied)
    dropped = tuple(name for name in source if name not in copied)
    return Plan(tuple(kept), structure.count, tuple(lines), dropped, tuple(tied.items()))


def _packed_indices(
    name: str, source: Mapping[str, Shape], structure: Structure, kept: list[int]
) -> tuple[Runs, ...] | None:
    """The slices of the kept blocks; None for a tensor without slices, and where all blocks stay at their places."""
    dimension = packed_dimension(name)
    if dimension is None or name not in source or kept == list(range(structure.count)):
        return None
    each = source[name][dimension] // structure.count
    slices = tuple((block * each, (block + 1) * each) for block in kept)
    return tuple(slices if at == dimension else ((0, length),) for at, length in enumerate(source[name]))


def narrowed(
    plan: Plan,
    indices: Mapping[str, tuple[Runs, ...]],
    origins: Mapping[str, str] | None = None,
    rescales: Mapping[str, Rescale] | None = None,
) -> Plan:
    """`plan` with parts of tensors in place of whole ones: `indices` along each dimension, by the target's names.

    `indices` are those of the target at its full width. `origins` maps tensors of experts in lists to the tensors that
    the target at full width has under the names of the experts that stay; `rescales` multiplies slices of the result.

    Raises InputError for a tensor that would be rescaled twice.
    """
    whole, origins, rescales, lines = {line.target: line for line in plan.lines}, origins or {}, rescales or {}, []
    for name, parts in indices.items():
        line = whole.get(origins.get(name, name))
        if line is None:  # a second name
            continue
        own = tuple(
            composed(taken, part) for taken, part in zip(line.indices or _all_of(line.shape), parts, strict=True)
        )
        moved = line.rescale and moved_slice(line.rescale, parts)
        new = rescales.get(name) if line.source is not None else None
        if moved is not None and new is not None:
            what = "would be rescaled for its block's new place and for its width"
            raise InputError(name, what, "choose blocks that keep their places (choose: first), or the full width")
        line = replace(line, target=name, shape=lengths(parts), rescale=new or moved)
        if line.source is not None and line.shape != whole[origins.get(name, name)].shape:
            line = replace(line, indices=own)
        lines.append(line)
    used = {line.source for line in lines}
    dropped = tuple(line.source for line in plan.lines if line.source is not None and line.source not in used)
    return replace(plan, lines=tuple(lines), dropped=plan.dropped + dropped)


def _all_of(shape: Shape) -> tuple[Runs, ...]:
    return tuple(((0, size),) for size in shape)


def moved_slice(rescale: Rescale, parts: tuple[Runs, ...]) -> Rescale:
    """The slice of a rescaling where parts of a tensor are taken, in rising order."""
    kept = parts[rescale.dimension]
    before, inside = (
        sum(max(0, min(stop, end) - max(start, begin)) for start, stop in kept)
        for begin, end in ((0, rescale.start), (rescale.start, rescale.stop))
    )
    return replace(rescale, start=before, stop=before + inside)


def describe_plan(plan: Plan) -> dict[str, Any]:
    """The plan in figures, for manifests."""
    return {
        "blocks": list(plan.kept),
        "of": plan.total,
        "tensors_copied": sum(line.source is not None for line in plan.lines),
        "tensors_fresh": len(plan.fresh),
        "tensors_dropped": len(plan.dropped),
    }


def plan_rows(plan: Plan, bytes_each: int) -> list[dict[str, Any]]:
    """The plan as rows: target, source, slice (in words) and bytes, for weights of `bytes_each` bytes."""
    return [
        {
            "target": line.target,
            "source": line.source,
            "slice": _slice_in_words(line),
            "shape": list(line.shape),
            "bytes": math.prod(line.shape) * bytes_each,
        }
        for line in plan.lines
    ] + [
        {"target": alias, "source": None, "slice": f"tied to {name}", "shape": [], "bytes": 0}
        for alias, name in plan.tied
    ]


def _slice_in_words(line: TensorCopy) -> str:
    if line.source is None:
        return "new" if line.value is None else f"all {line.value:g}"
    words = "all"
    if line.indices is not None:
        words = "[" + ", ".join(map(_runs_in_words, line.indices)) + "]"
    if (rescale := line.rescale) is not None:
        words += f" x {rescale.factor:g} at {rescale.start}:{rescale.stop} of dimension {rescale.dimension}"
    return words


def _runs_in_words(runs: Runs) -> str:
    if len(runs) > _MANY_RUNS:
        return f"{length(runs):,} of {runs[0][0]}:{runs[-1][1]}"
    return "+".join(f"{start}:{stop}" for start, stop in runs)
