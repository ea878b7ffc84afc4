"""Growth from a trained target: its blocks inserted into a deeper model of the same reference."""

from typing import TYPE_CHECKING

from inheritune.arch import (
    build_skeleton,
    compensated_attributes,
    differences,
    find_structure,
    identity_values,
    packed_dimension,
    rescales,
)
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# How far function-preserving growth may change the logits, relative to the largest one.
_TOLERANCE = 1e-6


def is_grown(before: list[int], after: list[int]) -> bool:
    """Whether `after` has all of the blocks `before`, each once and in the same order, and others besides."""
    return len(set(after)) == len(after) and [block for block in after if block in before] == before


def check_function_preserving(target: "PreTrainedModel") -> None:
    """Raise InputError when a block of `target` (on the meta device) cannot be made to return its input."""
    structure = find_structure(target)
    for place in range(structure.count):
        identity_values(target, structure, place)


def insert_blocks(
    target: "PreTrainedModel", trained: "PreTrainedModel", kept: list[int], before: list[int], *,
    function_preserving: bool,
) -> None:  # fmt: skip
    """Insert a trained model's blocks into `target`, which is deeper, in place.

    `target` has the reference's blocks `kept`, `trained` was made of the blocks `before`, all of which are among
    them. Everything of `trained` takes its place in `target`; the other blocks there are the reference's own. With
    `function_preserving` their output projections are zeroed, and the logits are those of `trained` (float32, to 1e-6).

    Raises InputError where a block would change at its place, and where its output cannot be zeroed.
    """
    import torch

    theirs, ours = find_structure(trained), find_structure(target)
    places = {at: kept.index(block) for at, block in enumerate(before)}
    for at, place in places.items():
        changed = differences(
            trained.get_submodule(f"{theirs.blocks}.{at}"),
            target.get_submodule(f"{ours.blocks}.{place}"),
            compensated_attributes(trained.config),
        )
        if changed:
            raise InputError(
                f"block {before[at]}", f"would change at place {place}: {changed[0]}", "set grow.start to reference"
            )
    tensors = target.state_dict()
    with torch.no_grad():
        for name, tensor in trained.state_dict().items():
            where = theirs.split(name)
            goal = tensors[name if where is None else ours.name_in(places[where[0]], where[1])]
            packed = packed_dimension(name) if where is None else None
            if packed is None:
                goal.copy_(tensor)
                continue
            each = tensor.shape[packed] // theirs.count
            for at, place in places.items():
                goal.narrow(packed, place * each, each).copy_(tensor.narrow(packed, at * each, each))
        for at, place in places.items():
            for rescale in rescales(trained.config, at, place):
                rescale.apply(tensors[ours.name_in(place, rescale.tensor)])
        if not function_preserving:
            return
        skeleton = build_skeleton(target.config, trust_remote_code=target.is_remote_code())
        for place in set(range(ours.count)) - set(places.values()):
            for name, value in identity_values(skeleton, ours, place).items():
                tensors[ours.name_in(place, name)].fill_(value)
    _check_same(target, trained)


def _check_same(target: "PreTrainedModel", trained: "PreTrainedModel") -> None:
    """Compare logits on a few tokens, whatever the architecture. Raises InputError where they differ."""
    import torch

    tokens_BT = torch.arange(min(16, trained.config.vocab_size)).unsqueeze(0)
    with torch.no_grad():
        ours, theirs = (
            model.eval()(tokens_BT.to(model.device), use_cache=False).logits.float() for model in (target, trained)
        )
    if not torch.allclose(ours, theirs, rtol=0, atol=_TOLERANCE * max(1.0, float(theirs.abs().max()))):
        raise InputError(
            "grow.function_preserving",
            f"{trained.config.model_type}: new blocks with zeroed outputs still change the logits, by"
            f" {float((ours - theirs).abs().max()):.2g}",
            "set grow.function_preserving to false",
        )
