"""From a loaded reference and a shape to a target of that shape: chosen, rotated, taken, refitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from inheritune.arch import Indices, Selection
from inheritune.data import Rows
from inheritune.errors import InputError
from inheritune.inheritance import (
    RIDGE,
    Plan,
    TargetSpec,
    check_can_be_refitted,
    derive,
    draft_target,
    keep_magnitudes,
    refit,
    refitted_matrices,
    rotate,
)
from inheritune.inheritance.units.choice import DEFAULTS, Shape, choose_units
from inheritune.inheritance.units.criteria.base import Axis
from inheritune.inheritance.units.statistics import UnitStatistics, collect_statistics
from inheritune.results import Refit, UnitChoice
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Narrowed:
    """A target with its weights, and how it was made.

    `source` is the reference, or the copy with rotated hidden channels that `plan` and `width` speak of.
    """

    target: "PreTrainedModel"
    source: "PreTrainedModel"
    plan: Plan
    width: Selection
    rotated: bool
    refit: Refit | None
    choice: UnitChoice | None = None


def derive_shape(
    reference: "PreTrainedModel", blocks: Sequence[int], shape: Shape, rows: Rows | None, *,
    criterion: str | Mapping[Axis, str] | None = None, rotated: "bool | PreTrainedModel" = True,
    ridge: float | None = RIDGE,
    head_size: Indices | None = None, seen: UnitStatistics | None = None, micro_batch: int = 8,
) -> Narrowed:  # fmt: skip
    """The target of the reference's `blocks` that has a shape, by its use on the text `rows`.

    Neurons, heads and experts are chosen (see `choose_units`, also for `criterion` and `seen`). Fewer hidden channels
    are the first principal components where the architecture can be rotated, unless `rotated` is false; else channels
    are chosen, and the log says why. `rotated` may be the copy that `rotate_to_components` has made. The gains of the
    norms make up for the channels that are gone. With a `ridge`, the blocks are refitted (see `refit`). `head_size` are
    the dimensions of each head that stay. Without text there is no rotation, no refit, and gains stay. The reference is
    in float32 and evaluation mode, and does not change.

    Raises InputError for a shape that the architecture cannot have, and for blocks that cannot be refitted.
    """
    if ridge is not None:
        check_can_be_refitted(reference, blocks)
    source, is_rotated, width, own = reference, False, Selection(), shape
    if shape.hidden is not None and rotated and rows is not None:
        if isinstance(rotated, bool):
            source, is_rotated = rotate_to_components(reference, rows, micro_batch=micro_batch)
            if is_rotated and reference.config.tie_word_embeddings:
                what = "so the head is not tied to the embeddings any more, and adds to the size"
                logger.info(f"hidden channels are rotated, {what}")
        else:
            source, is_rotated = rotated, True
    if is_rotated and shape.hidden is not None:
        own, width, seen = replace(shape, hidden=None), Selection(hidden=tuple(range(shape.hidden))), None
    chosen = choose_units(source, blocks, own, rows, criterion, seen=seen, micro_batch=micro_batch)
    width = replace(chosen, hidden=width.hidden) if is_rotated else chosen
    width = replace(width, head_size=head_size)
    spec = TargetSpec(tuple(blocks), width=width)
    target, plan = derive(source, spec)
    if width.hidden is not None and rows is not None:
        keep_magnitudes(target, source, plan.kept, norm_shares(source, rows, width.hidden, micro_batch=micro_batch))
    done = None
    if ridge is not None and rows is not None:
        names = refitted_matrices(draft_target(source, spec))
        options = {"hidden": width.hidden, "ridge": ridge, "micro_batch": micro_batch}
        done = refit(target, source, plan.kept, names, rows, **options)  # type: ignore[arg-type]
    return Narrowed(target, source, plan, width, is_rotated, done)


def derive_chosen(
    reference: "PreTrainedModel", spec: TargetSpec, importance: str, rows: Rows | None, *, refits: bool,
    rotated: "bool | PreTrainedModel" = True, micro_batch: int = 8,
) -> Narrowed:  # fmt: skip
    """The target of `spec` with other units: as many as its width has, chosen by their importance on the text `rows`.

    `importance` is a criterion, or `auto`: the one of each axis that measured best; `rotated` is that of
    `derive_shape`. Raises InputError for a criterion that does not exist or needs text, and as `derive_shape` does.
    """
    width = spec.width
    if width.by_field:
        what = f"{importance}, and the model has several widths of a kind ({width.by_field[0][0]})"
        raise InputError("inherit.importance", what, "set it to first")
    counts = {axis: len(width.of_block(0).axes()[axis] or ()) or None for axis in DEFAULTS}
    criteria: dict[Axis, str] = {axis: _criterion(axis, importance, refits) for axis, count in counts.items() if count}
    if rows is None and importance == "auto":
        what = "auto looks at the model at work on text, and there is none"
        raise InputError("inherit.importance", what, "give text, or set it to magnitude (weights alone) or first")
    made = derive_shape(
        reference, spec.blocks, Shape(**counts), rows, criterion=criteria, rotated=rotated,
        ridge=RIDGE if refits else None, head_size=width.head_size, micro_batch=micro_batch,
    )  # fmt: skip
    named = {axis: name for axis, name in criteria.items() if not (axis == "hidden" and made.rotated)}
    kept = {axis: count for axis, count in counts.items() if count}
    return replace(made, choice=UnitChoice(kept=kept, criteria=named, rotated=made.rotated))


def _criterion(axis: Axis, importance: str, refits: bool) -> str:
    """The criterion for an axis. What `error` chooses is only good with the refit (docs/log.md)."""
    if importance != "auto":
        return importance
    return "gradient" if axis == "neurons" and not refits else DEFAULTS[axis]


def rotate_to_components(
    reference: "PreTrainedModel", rows: Rows, *, micro_batch: int = 8
) -> "tuple[PreTrainedModel, bool]":
    """A copy of the model whose hidden channels are the principal components of its hidden states on `rows`.

    The largest component is the first channel. Each hidden state counts as a direction, whatever its length. A tied
    head gets a matrix of its own. Where the architecture cannot be rotated, the log gives the
    reason, and the result is the reference itself and False.
    """
    try:
        seen = collect_statistics(reference, rows, ["stream"], axes=["hidden"], micro_batch=micro_batch)
        model = rotate(reference, torch.linalg.eigh(seen.products_DD)[1].flip(1).T)
    except InputError as error:
        logger.info(f"hidden channels are selected, as they cannot be rotated: {error}")
        return reference, False
    return model, True


def norm_shares(
    model: "PreTrainedModel", rows: Rows, hidden: Sequence[int], *, micro_batch: int = 8
) -> dict[str, float]:
    """For each norm over the hidden channels, the mean share of these channels in the squared norm of its input."""
    norms = collect_statistics(model, rows, ["stream"], axes=["hidden"], micro_batch=micro_batch).norms
    return {name: float(shares_D[list(hidden)].sum()) for name, shares_D in norms.items()}
