"""From a reference without weights to a target without weights: what is wished, planned and checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inheritune.arch import (
    Fold,
    Structure,
    build_skeleton,
    check_cache,
    check_decoder,
    check_lenders,
    check_movable,
    check_place,
    differences,
    fills,
    find_structure,
    folds,
    halve,
    kept_ranges,
    packed_dimension,
    settled_attributes,
    shorten,
    tensor_roles,
)
from inheritune.errors import BUILD_ERRORS, InputError
from inheritune.inheritance.plan import Exceptions, Plan, Shape, narrowed, plan_copies
from inheritune.inheritance.selection import select_blocks
from inheritune.recipe import Inherit

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Draft:
    """A target before it has weights.

    `target` is made by `plan`. `whole` is the model of the kept blocks in the reference's width, made by `whole_plan`:
    the same one, unless the width is halved. Neither model has memory for weights.
    """

    plan: Plan
    target: "PreTrainedModel"
    whole_plan: Plan
    whole: "PreTrainedModel"
    trust_remote_code: bool


def draft(reference: "PreTrainedModel", wish: Inherit, trust_remote_code: bool = False) -> Draft:
    """What becomes of `reference`, which needs no weights (it may be on the meta device), by `wish`.

    Raises InputError for a selection that is not there, or that would change what a block computes.
    """
    check_decoder(reference.config)
    structure = find_structure(reference)
    kept = select_blocks(wish.layers, wish.choose, structure.count)
    short = shorten_for(reference.config, kept)
    check_place(reference, structure, kept)
    with as_input_error(reference.config, kept):
        whole = build_skeleton(short, trust_remote_code)
    if not isinstance(reference, type(whole)):
        raise InputError(
            type(reference).__name__,
            f"its config makes a {type(whole).__name__}, which has other tensors",
            "load it with AutoModelForCausalLM",
        )
    places = find_structure(whole)
    _check_blocks(reference, whole, structure, places, kept)
    plan = plan_copies(
        _shapes(reference),
        _shapes(whole),
        structure,
        kept,
        tied=getattr(whole, "all_tied_weights_keys", {}),
        exceptions=_exceptions(reference.config, whole, places, kept, wish),
    )
    if wish.width == "full":
        return Draft(plan, whole, plan, whole, trust_remote_code)
    narrow = halve(short)
    with as_input_error(reference.config, kept):
        target = build_skeleton(narrow, trust_remote_code)
    return Draft(narrowed(plan, kept_ranges(whole, target)), target, plan, whole, trust_remote_code)


def shorten_for(config: "PretrainedConfig", kept: list[int]) -> "PretrainedConfig":
    """The config of a target of the blocks `kept`, from the reference's config alone.

    Raises InputError where these blocks cannot make a model, or would compute something else at their new places.
    """
    check_movable(config, kept)
    with as_input_error(config, kept):
        short = shorten(config, kept)
        check_cache(config, short)
        check_lenders(config, short, kept)
        return short


def target_config(config: "PretrainedConfig", wish: Inherit, total: int) -> "PretrainedConfig":
    """The config of the target of `wish`, from the reference's config alone. Raises InputError as `draft` does, where
    the config shows it.
    """
    short = shorten_for(config, select_blocks(wish.layers, wish.choose, total))
    return short if wish.width == "full" else halve(short)


@contextmanager
def as_input_error(config: "PretrainedConfig", kept: list[int]) -> Iterator[None]:
    """What transformers says of a config that it refuses, as an error that names the blocks."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        raise InputError(
            f"{config.model_type}, blocks {kept}",
            f"transformers cannot build a model of them: {error}",
            "choose other blocks",
        ) from None


def _check_blocks(
    reference: "PreTrainedModel", target: "PreTrainedModel", structure: Structure, places: Structure, kept: list[int]
) -> None:
    """Raise InputError where a block at its new place is not the block that it was."""
    settled = settled_attributes(reference.config)
    for place, index in enumerate(kept):
        source = reference.get_submodule(f"{structure.blocks}.{index}")
        new = tuple(fill.tensor for fill in fills(reference.config, index, place, len(kept)))
        found = differences(source, target.get_submodule(f"{places.blocks}.{place}"), settled)
        found = [difference for difference in found if not difference.startswith(new)]
        if found:
            raise InputError(
                f"block {index}",
                f"would change at place {place}: {found[0]}",
                "choose other blocks, or choose: first",
            )


def _exceptions(
    config: "PretrainedConfig", whole: "PreTrainedModel", places: Structure, kept: list[int], wish: Inherit
) -> Exceptions:
    folded: dict[str, tuple[Fold, ...]] = {}
    values: dict[str, float] = {}
    for place, index in enumerate(kept):
        for fold in folds(config, index, place):
            name = places.name_in(place, fold.tensor)
            folded[name] = (*folded.get(name, ()), fold)
        values |= {places.name_in(place, fill.tensor): fill.value for fill in fills(config, index, place, len(kept))}
    names = [name for name in whole.state_dict() if places.split(name) is None]
    packed = {name: dimension for name in names if (dimension := packed_dimension(name)) is not None}
    return Exceptions(_inherited(whole, places, wish), folded, values, packed)


def _inherited(target: "PreTrainedModel", places: Structure, wish: Inherit) -> frozenset[str] | None:
    """The target's tensors that `wish.submodules` takes over; None for all of them."""
    if wish.submodules == "all":
        return None
    if wish.submodules == "none":
        return frozenset()
    roles = tensor_roles(target, places)
    there = sorted(set(roles.values()))
    for wanted in wish.submodules:
        if wanted not in there:
            tied = "; its head is tied to the embeddings, so it comes with them" if wanted == "head" else ""
            raise InputError(
                "inherit.submodules", f"the model has no {wanted} of its own{tied}", f"it has {', '.join(there)}"
            )
    return frozenset(name for name, role in roles.items() if role in wish.submodules)


def _shapes(model: "PreTrainedModel") -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
