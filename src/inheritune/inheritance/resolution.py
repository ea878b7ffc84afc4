"""From the user's `Inherit` settings to a `TargetSpec`: a number, a fraction or a budget becomes blocks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inheritune.arch import Selection, build_skeleton, first_units, layer_count, parameter_count
from inheritune.errors import InputError
from inheritune.inheritance.blocks import select_blocks
from inheritune.inheritance.target import TargetSpec, target_config
from inheritune.recipe import MEASURED, Inherit, Size

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_BYTES = {"GB": 10**9, "MB": 10**6}


def resolve(
    inherit: Inherit | TargetSpec, config: "PretrainedConfig", blocks: Sequence[int] | None = None, *,
    trust_remote_code: bool = False,
) -> TargetSpec:  # fmt: skip
    """The target that `inherit` describes, of a source with this config. A `TargetSpec` is returned as it is.

    `blocks` are for blocks that are chosen elsewhere: by a measured choice, or for a round of growth.

    Raises InputError when a block does not exist, for a measured choice without `blocks`, for a budget below one block,
    and for widths that the architecture cannot have.
    """
    if isinstance(inherit, TargetSpec):
        return inherit
    if blocks is None:
        numbered = replace_budget(config, inherit, trust_remote_code)
        blocks = select_blocks(numbered.layers, inherit.choose, layer_count(config))
    submodules = inherit.submodules if isinstance(inherit.submodules, str) else tuple(inherit.submodules)
    return TargetSpec(tuple(blocks), submodules, _units(config, inherit))


def _units(config: "PretrainedConfig", inherit: Inherit) -> Selection:
    """The first units. Where units are chosen, others come in their place, and the target is exact or refused."""
    width = first_units(config, inherit.widths)
    return replace(width, exact=True) if inherit.importance != "first" else width


def keeps_budget(
    config: "PretrainedConfig", inherit: Inherit, blocks: Sequence[int], trust_remote_code: bool = False
) -> bool:
    """Whether the target of these blocks keeps the budget `inherit.layers`. Raises InputError where they make none."""
    assert isinstance(inherit.layers, Size)
    target = build_skeleton(target_config(config, resolve(inherit, config, blocks)), trust_remote_code)
    size = parameter_count(target)
    if inherit.layers.unit in _BYTES:
        return bool(size * target.dtype.itemsize <= inherit.layers.amount * _BYTES[inherit.layers.unit])
    return size <= inherit.layers.amount


def size_of(config: "PretrainedConfig", inherit: Inherit, trust_remote_code: bool = False) -> Size:
    """`inherit.size` as a number of parameters."""
    assert inherit.size is not None
    whole = build_skeleton(config, trust_remote_code)
    if not isinstance(inherit.size, Size):
        return Size(int(parameter_count(whole) * inherit.size), "parameters")
    if inherit.size.unit in _BYTES:
        return Size(int(inherit.size.amount * _BYTES[inherit.size.unit] // whole.dtype.itemsize), "parameters")
    return inherit.size


def replace_budget(config: "PretrainedConfig", inherit: Inherit, trust_remote_code: bool = False) -> Inherit:
    """`inherit` with a number of whole blocks in place of a budget or a size: the largest that keeps it.

    A measured choice has no blocks yet, so the first ones are counted; they have the same size in nearly all models.
    Raises InputError where not even one block keeps the budget.
    """
    if inherit.size is not None:
        inherit = inherit.model_copy(update={"layers": size_of(config, inherit, trust_remote_code), "size": None})
    if not isinstance(inherit.layers, Size):
        return inherit
    total = layer_count(config)
    choose = "first" if inherit.choose in MEASURED else inherit.choose
    low, high = 0, total  # the first `low` blocks are known to fit, more than `high` not to
    while low < high:
        middle = (low + high + 1) // 2
        fits = keeps_budget(config, inherit, select_blocks(middle, choose, total), trust_remote_code)
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0:
        raise InputError(
            "inherit.layers", f"{inherit.layers}, and one block with embeddings and head comes to more", "allow more"
        )
    return inherit.model_copy(update={"layers": low})
