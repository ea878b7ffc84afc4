"""From a reference and a spec to a target without weights: planned and checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inheritune.arch import (
    Rescale,
    Structure,
    build_skeleton,
    check_cache,
    check_decoder,
    check_kv_sources,
    check_movable,
    check_place,
    compensated_attributes,
    constant_inits,
    differences,
    find_structure,
    kept_indices,
    layer_count,
    narrow,
    packed_dimension,
    rescales,
    shorten,
    tensor_roles,
)
from inheritune.errors import BUILD_ERRORS, InputError
from inheritune.inheritance.blocks import select_blocks
from inheritune.inheritance.plan import Exceptions, Plan, Shape, narrowed, plan_copies
from inheritune.inheritance.spec import TargetSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class PlannedTarget:
    """A target before it has weights (on the meta device), and the plan that gives it its weights."""

    plan: Plan
    target: "PreTrainedModel"
    trust_remote_code: bool


def draft_target(
    reference: "PreTrainedModel", spec: TargetSpec, trust_remote_code: bool = False
) -> PlannedTarget:  # fmt: skip
    """Plan the target of `spec`; `reference` needs no weights (it may be on the meta device).

    Raises InputError for blocks or other indices that do not exist, and for a selection that would change what a block
    computes.
    """
    check_decoder(reference.config)
    structure = find_structure(reference)
    kept = _existing(spec, structure.count)
    short = _shortened(reference.config, kept)
    check_place(reference, structure, kept)
    with _as_input_error(reference.config, kept):
        whole = build_skeleton(short, trust_remote_code)
    if not isinstance(reference, type(whole)):
        what = f"its config makes a {type(whole).__name__}, which has other tensors"
        raise InputError(type(reference).__name__, what, "load it with AutoModelForCausalLM")
    places = find_structure(whole)
    _check_blocks(reference, whole, structure, places, kept)
    plan = plan_copies(
        _shapes(reference),
        _shapes(whole),
        structure,
        kept,
        tied=getattr(whole, "all_tied_weights_keys", {}),
        exceptions=_exceptions(reference.config, whole, places, kept, spec),
    )
    if spec.width.is_full_width:
        return PlannedTarget(plan, whole, trust_remote_code)
    width = spec.width.at_places(kept)
    narrower = narrow(short, width)
    with _as_input_error(reference.config, kept):
        target = build_skeleton(narrower, trust_remote_code)
    return PlannedTarget(narrowed(plan, kept_indices(whole, target, width)), target, trust_remote_code)


def target_config(config: "PretrainedConfig", spec: TargetSpec) -> "PretrainedConfig":
    """The config of the target of `spec`, from the reference's config alone.

    Raises InputError as `draft_target` does, where the config shows the problem.
    """
    kept = _existing(spec, layer_count(config))
    return narrow(_shortened(config, kept), spec.width.at_places(kept))


def _existing(spec: TargetSpec, total: int) -> list[int]:
    """The spec's blocks. Raises InputError for one that the reference does not have."""
    return select_blocks(list(spec.blocks), "first", total)


def _shortened(config: "PretrainedConfig", kept: list[int]) -> "PretrainedConfig":
    """The config of a target of the blocks `kept`.

    Raises InputError where these blocks cannot make a model, or would compute something else at their new places.
    """
    check_movable(config, kept)
    with _as_input_error(config, kept):
        short = shorten(config, kept)
        check_cache(config, short)
        check_kv_sources(config, short, kept)
        return short


@contextmanager
def _as_input_error(config: "PretrainedConfig", kept: list[int]) -> Iterator[None]:
    """Turn transformers' refusal of a config into an InputError that names the blocks."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        what = f"transformers cannot build a model of them: {error}"
        raise InputError(f"{config.model_type}, blocks {kept}", what, "choose other blocks") from None


def _check_blocks(
    reference: "PreTrainedModel", target: "PreTrainedModel", structure: Structure, places: Structure, kept: list[int]
) -> None:
    """Raise InputError where a block at its new place is not the block that it was."""
    settled = compensated_attributes(reference.config)
    for place, index in enumerate(kept):
        source = reference.get_submodule(f"{structure.blocks}.{index}")
        new = tuple(constant.tensor for constant in constant_inits(reference.config, index, place, len(kept)))
        changed = differences(source, target.get_submodule(f"{places.blocks}.{place}"), settled)
        changed = [difference for difference in changed if not difference.startswith(new)]
        if changed:
            what = f"would change at place {place}: {changed[0]}"
            raise InputError(f"block {index}", what, "choose other blocks, or choose: first")


def _exceptions(
    config: "PretrainedConfig", whole: "PreTrainedModel", places: Structure, kept: list[int], spec: TargetSpec
) -> Exceptions:
    rescaled: dict[str, tuple[Rescale, ...]] = {}
    values: dict[str, float] = {}
    for place, index in enumerate(kept):
        for rescale in rescales(config, index, place):
            name = places.name_in(place, rescale.tensor)
            rescaled[name] = (*rescaled.get(name, ()), rescale)
        values |= {
            places.name_in(place, constant.tensor): constant.value
            for constant in constant_inits(config, index, place, len(kept))
        }
    names = [name for name in whole.state_dict() if places.split(name) is None]
    packed = {name: dimension for name in names if (dimension := packed_dimension(name)) is not None}
    return Exceptions(_inherited(whole, places, spec), rescaled, values, packed)


def _inherited(target: "PreTrainedModel", places: Structure, spec: TargetSpec) -> frozenset[str] | None:
    """The target's tensors that `spec.submodules` takes over; None for all of them."""
    if spec.submodules == "all":
        return None
    if spec.submodules == "none":
        return frozenset()
    roles = tensor_roles(target, places)
    there = sorted(set(roles.values()))
    for wanted in spec.submodules:
        if wanted not in there:
            tied = "; its head is tied to the embeddings, so it comes with them" if wanted == "head" else ""
            raise InputError(
                "inherit.submodules", f"the model has no {wanted} of its own{tied}", f"it has {', '.join(there)}"
            )
    return frozenset(name for name, role in roles.items() if role in spec.submodules)


def _shapes(model: "PreTrainedModel") -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
