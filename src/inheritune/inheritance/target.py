"""From a reference and a spec to a target without weights: planned and checked."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from huggingface_hub.errors import StrictDataclassError

from inheritune.arch import (
    Selection,
    Structure,
    build_skeleton,
    check_cache,
    check_decoder,
    check_kv_sources,
    check_movable,
    check_place,
    compensated_attributes,
    compensations,
    constant_inits,
    differences,
    find_structure,
    kept_experts,
    kept_indices,
    layer_count,
    narrow,
    rescales,
    shorten,
    tensor_roles,
    tensor_shapes,
    vocabulary_indices,
    with_vocabulary,
)
from inheritune.errors import BUILD_ERRORS, InputError
from inheritune.inheritance.blocks import select_blocks
from inheritune.inheritance.plan import Plan, narrowed, plan_copies

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class TargetSpec:
    """A target, decided: which blocks of its source, which part of their width, and whose weights.

    Raises ValueError without blocks, and for negative ones.
    """

    blocks: tuple[int, ...]
    """The source's blocks at the target's places. Blocks may repeat (stacking)."""
    submodules: Literal["all", "none"] | tuple[str, ...] = "all"
    """Whose weights are copied: all, none, or roles such as attention and mlp. The others are newly initialised."""
    width: Selection = field(default_factory=Selection)
    """The part of the width and the vocabulary that is kept; numbers are the source's."""

    def __post_init__(self) -> None:
        if not self.blocks or min(self.blocks) < 0:
            raise ValueError("blocks: give at least one index, counted from 0")


@dataclass(frozen=True)
class PlannedTarget:
    """A target without weights (on the meta device), and the plan for its weights."""

    plan: Plan
    target: "PreTrainedModel"


def draft_target(reference: "PreTrainedModel", spec: TargetSpec) -> PlannedTarget:
    """Plan the target of `spec`; `reference` needs no weights (it may be on the meta device).

    Raises InputError for blocks or other indices that do not exist, and for a selection that would change what a block
    computes.
    """
    check_decoder(reference.config)
    structure = find_structure(reference)
    kept = select_blocks(list(spec.blocks), "first", structure.count)
    short = _shortened(reference.config, kept)
    check_place(reference, structure, kept)
    own_code = reference.is_remote_code()
    whole = build_skeleton(short, own_code)
    if not isinstance(reference, type(whole)):
        what = f"its config makes a {type(whole).__name__}, which has other tensors"
        raise InputError(type(reference).__name__, what, "load it with AutoModelForCausalLM")
    places = find_structure(whole)
    _check_blocks(reference, whole, structure, places, kept)
    moves, depth = list(enumerate(kept)), len(kept)
    plan = plan_copies(
        tensor_shapes(reference),
        tensor_shapes(whole),
        structure,
        kept,
        tied=getattr(whole, "all_tied_weights_keys", {}),
        inherited=_inherited(whole, places, spec),
        rescales={
            places.name_in(place, rescale.tensor): rescale
            for place, index in moves
            for rescale in rescales(reference.config, index, place)
        },
        values={
            places.name_in(place, tensor): value
            for place, index in moves
            for tensor, value in constant_inits(reference.config, index, place, depth).items()
        },
    )
    if spec.width.is_full_width:
        return PlannedTarget(plan, whole)
    width, target = spec.width.at_places(kept), whole
    if not (widths := width.without_vocabulary).is_full_width:
        target = build_skeleton(narrow(short, widths), own_code)
        factors = compensations(whole, target, widths) if widths.exact else {}
        plan = narrowed(plan, kept_indices(whole, target, widths), kept_experts(whole, target, widths), factors)
    if width.vocabulary is not None:
        wide, target = target, build_skeleton(with_vocabulary(target.config, width.vocabulary), own_code)
        plan = narrowed(plan, vocabulary_indices(wide, target, width.vocabulary))
    return PlannedTarget(plan, target)


def target_config(config: "PretrainedConfig", spec: TargetSpec) -> "PretrainedConfig":
    """The config of the target of `spec`, from the reference's config alone.

    Raises InputError as `draft_target` does, where the config shows the problem.
    """
    kept = select_blocks(list(spec.blocks), "first", layer_count(config))
    return narrow(_shortened(config, kept), spec.width.at_places(kept))


def _shortened(config: "PretrainedConfig", kept: list[int]) -> "PretrainedConfig":
    """The config of a target of the blocks `kept`.

    Raises InputError where these blocks cannot make a model, or would compute something else at their new places.
    """
    check_movable(config, kept)
    try:
        short = shorten(config, kept)
        check_cache(config, short)
        check_kv_sources(config, short, kept)
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        what = f"transformers cannot build a model of them: {error}"
        raise InputError(f"{config.model_type}, blocks {kept}", what, "choose other blocks") from None
    return short


def _check_blocks(
    reference: "PreTrainedModel", target: "PreTrainedModel", structure: Structure, places: Structure, kept: list[int]
) -> None:
    """Raise InputError where a block would compute something else at its new place."""
    settled = compensated_attributes(reference.config)
    for place, index in enumerate(kept):
        source = reference.get_submodule(f"{structure.blocks}.{index}")
        new = tuple(constant_inits(reference.config, index, place, len(kept)))
        changed = differences(source, target.get_submodule(f"{places.blocks}.{place}"), settled)
        changed = [difference for difference in changed if not difference.startswith(new)]
        if changed:
            what = f"would change at place {place}: {changed[0]}"
            raise InputError(f"block {index}", what, "choose other blocks, or choose: first")


def _inherited(target: "PreTrainedModel", places: Structure, spec: TargetSpec) -> frozenset[str] | None:
    """The target's tensors that `spec.submodules` copies; None for all of them."""
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
