"""Filling a planned target with weights: from a loaded model, or from a checkpoint's files."""

from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    Names,
    Placement,
    StoredWeights,
    build_empty,
    build_from,
    build_random,
    check_fits,
    place_tensors,
    take,
)
from inheritune.inheritance.plan import TensorCopy
from inheritune.inheritance.target import PlannedTarget

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def from_model(
    planned: PlannedTarget, reference: "PreTrainedModel", seed: int, dtype: Any = None
) -> "PreTrainedModel":  # fmt: skip
    """The target of a loaded reference, sharing no memory with it. What is not inherited is drawn with `seed`."""
    import torch

    config, own_code, dtype = planned.target.config, planned.target.is_remote_code(), dtype or reference.dtype
    fresh = planned.plan.fresh
    model = build_random(config, seed, dtype, own_code) if fresh else build_empty(config, dtype, own_code)
    sources, tensors = reference.state_dict(), model.state_dict()
    with torch.no_grad():
        for line in planned.plan.lines:
            if line.source is not None:
                value = sources[line.source]
                for dimension, runs in enumerate(line.indices or ()):
                    value = take(value, dimension, runs)
                tensors[line.target].copy_(value)
            _adjust(tensors[line.target], line)
    return model.eval()


def place(planned: PlannedTarget, reference: Names, weights: StoredWeights) -> Placement | None:
    """The stored tensors that the target takes, checked to be all that it needs. Reads no weights.

    `reference` knows what the stored names become in the reference. None where it is unknown which parts of the stored
    tensors make those of a narrower target (experts in an unusual form). Raises InputError for tensors that are missing
    or do not fit.
    """
    model, plan = planned.target, planned.plan
    indices = {line.target: line.indices for line in plan.lines if line.indices is not None}
    placement = place_tensors(weights, reference, model, plan.wanted(), indices)
    if placement is not None:
        check_fits(Names(model), placement.tensors(), weights.place, plan.unstored)
    return placement


def from_files(planned: PlannedTarget, placement: Placement, seed: int, dtype: Any) -> "PreTrainedModel":
    """The target of a checkpoint's files; nothing else of them is read."""
    import torch

    plan, target, new = planned.plan, planned.target, {}
    if plan.fresh:  # only what is new of the random model stays in memory
        drawn = build_random(target.config, seed, dtype, target.is_remote_code()).state_dict()
        new = {name: drawn[name] for name in plan.fresh}
        del drawn
    model = build_from(target, placement, dtype, new)
    tensors = model.state_dict()
    with torch.no_grad():
        for line in plan.lines:
            _adjust(tensors[line.target], line)
    return model.eval()


def _adjust(tensor: "torch.Tensor", line: TensorCopy) -> None:
    if line.value is not None:
        tensor.fill_(line.value)
    if line.rescale is not None:
        line.rescale.apply(tensor)
