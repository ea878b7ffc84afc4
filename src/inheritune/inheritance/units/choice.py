"""From criteria to indices: which neurons, heads, hidden channels and experts of a model are kept."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from inheritune.arch import Selection, block_modules, expert_groups, find_unit_matrices, head_groups
from inheritune.data import Rows
from inheritune.errors import InputError
from inheritune.inheritance import TargetSpec, draft_target
from inheritune.inheritance.units.criteria import CRITERIA
from inheritune.inheritance.units.criteria.base import Axis, Criterion, Need, Units, Worths
from inheritune.inheritance.units.statistics import (
    UnitStatistics,
    channel_weights,
    collect_statistics,
    inputs_first,
    sum_by_channel,
)
from inheritune.inheritance.units.watching import InputSums
from inheritune.recipe import ChosenWidths

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULTS: dict[Axis, str] = {"neurons": "error", "heads": "gradient", "hidden": "error", "experts": "router"}
"""The criterion of each axis that measured best, for neurons and heads with the refit (docs/log.md)."""

UNITS: dict[str, Axis] = {"heads": "heads", "mlp": "neurons", "hidden": "hidden", "experts": "experts"}
"""The axis of each key of `inherit` that says how many units are kept."""

_MEMORY = 2**32  # bytes of second moments that are held at once; further blocks take a pass of their own

Split = tuple[int, int]
"""How many groups of units stay, and how many units of each. What has no groups is one group."""


@dataclass(frozen=True)
class Shape:
    """How many units a target keeps: neurons, heads and experts of every block, hidden channels. None: all."""

    neurons: int | None = None
    heads: int | None = None
    hidden: int | None = None
    experts: int | None = None


def choose_units(
    reference: "PreTrainedModel", blocks: Sequence[int], shape: Shape, rows: Rows | None,
    criterion: str | Mapping[Axis, str] | None = None, *, seen: UnitStatistics | None = None, micro_batch: int = 8,
) -> Selection:  # fmt: skip
    """The units of the reference's `blocks` that a target of this shape keeps, by their use on the text `rows`.

    Neurons, heads and experts are chosen in each block, hidden channels for the whole model. Of heads that share keys
    and values, and of experts in groups, some groups stay with equally many of each, whichever numbers lose least.
    `criterion` is a name, or a mapping of axes to names; default: `DEFAULTS`. `magnitude` needs no text. The reference
    is in float32 and evaluation mode, and does not change. `seen` is what `collect_statistics` has found, for several
    choices by one pass; there is no pass then.

    Raises InputError for numbers that the architecture cannot have, and for a criterion that does not apply.
    """
    wanted: dict[Axis, int] = {axis: count for axis, count in asdict(shape).items() if count is not None}  # type: ignore[misc]
    names = {axis: criterion if isinstance(criterion, str) else (criterion or {}).get(axis) for axis in wanted}
    criteria = {axis: _criterion(axis, name or DEFAULTS[axis], rows) for axis, name in names.items()}
    missing = set() if seen is None else {need for one in criteria.values() for need in one.needs} - seen.needs
    if missing:
        what = f"the statistics lack {', '.join(sorted(missing))}, which the criteria need"
        raise InputError("seen", what, "collect them too, or give none")
    groups = {axis: _groups(reference, axis)[1] for axis in wanted}
    splits = _splits(reference, blocks, wanted)
    kept: dict[Axis, dict[int | None, list[tuple[int, ...]]]] = {axis: {} for axis in wanted}
    lost = {axis: [0.0] * len(own) for axis, own in splits.items()}
    parts = _passes(reference, sorted(set(blocks)), rows, criteria, micro_batch) if seen is None else [(blocks, seen)]
    for number, units in _units(reference, parts, criteria):
        kept[units.axis][number] = []
        for place, split in enumerate(splits[units.axis]):
            worths = criteria[units.axis].worths(units)
            kept[units.axis][number].append(_keep(worths, units.count, groups[units.axis], split))
            lost[units.axis][place] += worths.lost
    chosen: dict[str, Any] = {}
    for axis, own in kept.items():
        best = lost[axis].index(min(lost[axis]))
        if axis == "hidden":
            chosen[axis] = own[None][best]
        elif axis == "experts" and not own:
            raise InputError(axis, "no router is seen that gives experts the tokens", "keep all of them")
        else:  # a block without experts has none to choose
            everything = tuple(range(wanted[axis]))
            chosen[axis] = tuple(own[block][best] if block in own else everything for block in blocks)
    return Selection(**chosen)


def _criterion(axis: Axis, name: str, rows: Rows | None) -> Criterion:
    legal = [known for known, kind in CRITERIA.items() if axis in kind.axes]
    if name not in legal:
        raise InputError("criterion", f"{name!r} for {axis}", f"legal are {', '.join(legal)}")
    if rows is None and CRITERIA[name].needs:
        raise InputError("criterion", f"{name!r} for {axis} without text", "give text, or the criterion magnitude")
    return CRITERIA[name]()


def check_importance(widths: ChosenWidths) -> None:
    """Raise InputError unless `widths.importance` is `auto`, or a criterion for the axes that have fewer units."""
    for axis in (UNITS[key] for key in widths.widths if key in UNITS):
        legal = ["auto", "first", *(known for known, kind in CRITERIA.items() if axis in kind.axes)]
        if widths.importance not in legal:
            raise InputError("inherit.importance", f"{widths.importance!r} for {axis}", f"legal are {', '.join(legal)}")


def _splits(
    reference: "PreTrainedModel", blocks: Sequence[int], wanted: Mapping[Axis, int]
) -> dict[Axis, list[Split]]:  # fmt: skip
    """For each axis the ways in which units may stay: how many groups, and how many of each.

    Raises InputError for a shape that the architecture cannot have.
    """
    every = {axis: _numbers(reference, axis, count) for axis, count in wanted.items()}
    splits: dict[Axis, list[Split]] = {axis: [] for axis in wanted}
    for axis, own in every.items():
        errors = list[InputError]()
        for split in own:
            first: dict[str, Any] = {other: _first(reference, other, one[0]) for other, one in every.items()}
            first[axis] = _first(reference, axis, split)
            try:
                draft_target(reference, TargetSpec(tuple(blocks), width=Selection(**first)))
                splits[axis].append(split)
            except InputError as error:
                errors.append(error)
        if not splits[axis]:
            raise errors[-1]
    return splits


def _numbers(reference: "PreTrainedModel", axis: Axis, count: int) -> list[Split]:
    """The splits that give so many units. Raises InputError where there is none."""
    total, groups = _groups(reference, axis)
    if count < 1:
        raise InputError(axis, f"{count} asked for", "ask for at least 1")
    if total is None:
        return [(1, count)]
    every = [(some, own) for some in range(1, groups + 1) for own in range(1, total // groups + 1)]
    found = [(some, own) for some, own in every if some * own == count]
    if not found:
        numbers = sorted({some * own for some, own in every})
        near = [
            str(number) for number in (*[n for n in numbers if n < count][-1:], *[n for n in numbers if n > count][:1])
        ]
        what = f"{count} asked for, of {total} in {groups} groups (equally many of each group that stays)"
        raise InputError(axis, what, f"legal nearby are {' and '.join(near) or 'none'}")
    return found


def _groups(reference: "PreTrainedModel", axis: Axis) -> tuple[int | None, int]:
    """How many units there are (None: the config is not asked), and in how many groups."""
    if axis == "heads":
        return head_groups(reference.config)
    return expert_groups(reference.config) if axis == "experts" else (None, 1)


def _first(reference: "PreTrainedModel", axis: Axis, split: Split) -> tuple[int, ...]:
    """The first units of such a split."""
    total, groups = _groups(reference, axis)
    each = 0 if total is None else total // groups
    return tuple(group * each + unit for group in range(split[0]) for unit in range(split[1]))


def _passes(
    reference: "PreTrainedModel", blocks: Sequence[int], rows: Rows | None, criteria: Mapping[Axis, Criterion],
    micro_batch: int,
) -> Iterator[tuple[Sequence[int], UnitStatistics]]:  # fmt: skip
    """Some blocks and what a pass has found, until all blocks had their turn."""
    needs = {need for one in criteria.values() for need in one.needs}
    widest = max((one.count * one.size for own in find_unit_matrices(reference) for one in own.values()), default=1)
    together = max(1, _MEMORY // (2 * 8 * widest**2)) if "inputs" in needs else len(blocks)

    def collect(wanted: set[Need], some: Sequence[int]) -> UnitStatistics:
        if rows is None or not wanted:
            return UnitStatistics()
        return collect_statistics(reference, rows, wanted, blocks=some, axes=list(criteria), micro_batch=micro_batch)

    if together >= len(blocks):
        yield blocks, collect(needs, blocks)
        return
    whole = collect(needs - {"inputs"}, blocks)
    for first in range(0, len(blocks), together):
        some = blocks[first : first + together]
        yield some, replace(whole, inputs=collect({"inputs"}, some).inputs)


def _units(
    reference: "PreTrainedModel", parts: Iterable[tuple[Sequence[int], UnitStatistics]],
    criteria: Mapping[Axis, Criterion],
) -> Iterator[tuple[int | None, Units]]:  # fmt: skip
    """The units of each axis, block by block, with what is known about them; hidden channels last, with None."""
    matrices, seen = find_unit_matrices(reference), UnitStatistics()
    for blocks, seen in parts:
        for block in blocks:
            for axis in (axis for axis in criteria if axis in ("neurons", "heads")):
                matrix = matrices[block].get(axis)
                if matrix is None:
                    what = f"block {block} has no single matrix behind its {axis}"
                    raise InputError(axis, what, "keep all of them, or select them by index")
                weight_KD = _weight(reference, block, matrix.name)
                yield block, Units(
                    axis, matrix.count, matrix.size, weight_KD, weight_KD.reshape(matrix.count, -1).norm(dim=1),
                    seen.inputs.get((block, axis)), seen.gradients.get((block, axis)),
                )  # fmt: skip
            if "experts" in criteria and (routing := seen.routing.get(block)) is not None:
                yield block, Units("experts", len(routing.weights_E), routing=routing)
    if "hidden" in criteria:
        yield None, _channels(reference, seen)


def _weight(reference: "PreTrainedModel", block: int, name: str) -> Any:
    module: Any = block_modules(reference)[block].get_submodule(name)
    return inputs_first(module, module.weight.detach())


def _channels(reference: "PreTrainedModel", seen: UnitStatistics) -> Units:
    """The hidden channels."""
    width = reference.get_input_embeddings().weight.shape[-1]
    weights = channel_weights(reference).items()
    squares = [sum_by_channel(weight.detach().square(), places, width) for weight, places in weights]
    norms_D, gradients_D = torch.stack(squares).sum(0).sqrt(), seen.gradients.get((None, "hidden"))
    inputs = None if seen.products_DD is None else InputSums(seen.products_DD, seen.absolute_D)
    return Units("hidden", len(norms_D), norms_U=norms_D, inputs=inputs, gradients_U=gradients_D)


def _keep(worths: Worths, total: int, groups: int, split: Split) -> tuple[int, ...]:
    """Drop whole groups first, each time the one that costs least, and then units of each group that is left."""
    each, (some, own) = total // groups, split
    left = [list(range(group * each, (group + 1) * each)) for group in range(groups)]
    gone = list[int]()
    while len(left) > some:
        least = min(left, key=worths.cost)
        worths.drop(least)
        left.remove(least)
        gone += least
    for group in left:
        gone += worths.drop_least(group, each - own)
    return tuple(sorted(set(range(total)) - set(gone)))
