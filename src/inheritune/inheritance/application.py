"""A draft filled with weights: from a loaded model, or from a checkpoint's files."""

from collections.abc import Callable
from pathlib import Path
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
    save_stored,
    take,
)
from inheritune.errors import InputError
from inheritune.inheritance.plan import TensorCopy
from inheritune.inheritance.target import PlannedTarget

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def from_model(made: PlannedTarget, reference: "PreTrainedModel", seed: int, dtype: Any = None) -> "PreTrainedModel":
    """The target of a loaded reference, sharing no memory with it. What is not inherited is drawn with `seed`."""
    tensors = reference.state_dict()
    return _filled(made, lambda line: tensors[str(line.source)], seed, dtype or reference.dtype)


def place(made: PlannedTarget, reference: Names, weights: StoredWeights) -> Placement:
    """The stored tensors that the target takes, checked to be all that it needs. Reads no weights.

    `reference` knows what the stored names become in the reference. Where it is not known which parts of the stored
    tensors make a narrower target's (experts in an unusual form), what is placed is `made.whole`. Raises InputError
    for tensors that are missing or do not fit.
    """
    tried = [(made.target, made.plan)] + [(made.whole, made.whole_plan)] * (made.whole is not made.target)
    for model, plan in tried:
        indices = {line.target: line.indices for line in plan.lines if line.indices is not None}
        placement = place_tensors(weights, reference, model, plan.wanted(), indices)
        if placement is not None:
            check_fits(Names(model), placement.tensors(), weights.place, plan.unstored)
            return placement
    raise InputError(
        weights.place,
        "parts of tensors are wanted that are not stored in the model's shapes",
        "load the model with transformers and inherit from it in Python",
    )


def from_files(made: PlannedTarget, placement: Placement, seed: int, dtype: Any) -> "PreTrainedModel":
    """The target of a checkpoint's files; nothing else of them is read."""
    import torch

    if made.whole is not made.target and placement.target is made.whole:
        tensors = build_from(made.whole, placement, dtype).state_dict()
        return _filled(made, lambda line: tensors[line.target], seed, dtype, whole=True)
    given = {}
    if made.plan.fresh:  # of the random model only what is new outlives this line, so that memory holds one model
        drawn = build_random(made.target.config, seed, dtype, made.trust_remote_code).state_dict()
        given = {name: drawn[name] for name in made.plan.fresh}
        del drawn
    target = build_from(made.target, placement, dtype, given)
    tensors = target.state_dict()
    with torch.no_grad():
        for line in made.plan.lines:
            if line.value is not None:
                tensors[line.target].fill_(line.value)
            _rescale(tensors[line.target], line)
    return target.eval()


def write_files(
    made: PlannedTarget,
    placement: Placement,
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: Path,
    notes: dict[str, Any],
) -> None:
    """Write the target's checkpoint straight from the reference's files: for plans that take tensors as they are."""
    assert made.plan.is_whole
    save_stored(placement, made.target, tokenizer, folder, notes)


def _filled(
    made: PlannedTarget, tensor_for: "Callable[[TensorCopy], torch.Tensor]", seed: int, dtype: Any, whole: bool = False
) -> "PreTrainedModel":
    """The target with its tensors copied. `whole` says that those given are the ones of `made.whole` already, so that
    only what a narrower width takes of them is left to take.
    """
    import torch

    config, trust = made.target.config, made.trust_remote_code
    model = build_random(config, seed, dtype, trust) if made.plan.fresh else build_empty(config, dtype, trust)
    tensors = model.state_dict()
    taken = {line.target for line in made.whole_plan.lines if line.indices is not None} if whole else set()
    with torch.no_grad():
        for line in made.plan.lines:
            if line.source is None:
                if line.value is not None:
                    tensors[line.target].fill_(line.value)
                continue
            value = tensor_for(line)
            if line.indices is not None and line.target not in taken:
                for dimension, runs in enumerate(line.indices):
                    value = take(value, dimension, runs)
            tensors[line.target].copy_(value)
            _rescale(tensors[line.target], line)
    return model.eval()


def _rescale(tensor: "torch.Tensor", line: TensorCopy) -> None:
    for rescale in line.rescales:
        tensor.narrow(rescale.dimension, rescale.start, rescale.stop - rescale.start).mul_(rescale.factor)
