"""From the user's `Inherit` settings to a `TargetSpec`: a number, a fraction, a size or a speed becomes blocks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from inheritune.arch import (
    Selection,
    build_skeleton,
    first_units,
    layer_count,
    parameter_count,
    training_flops_per_token,
)
from inheritune.errors import InputError
from inheritune.inheritance.blocks import select_blocks
from inheritune.inheritance.target import TargetSpec, target_config
from inheritune.recipe import MEASURED, Inherit, Size

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_BYTES = {"GB": 10**9, "MB": 10**6}
_LENGTH = 64  # tokens of the sequences whose FLOPs stand in for a speed


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


def budget_use(
    config: "PretrainedConfig", inherit: Inherit, trust_remote_code: bool = False
) -> "Callable[[PretrainedConfig], float]":
    """From a target's config to how much it takes of the size and speed of `inherit`: at most 1 where it keeps both.

    `config` is the reference's. The speed is an estimate: a target with a third of the FLOPs is taken to be three times
    as fast.
    """
    most = None if inherit.size is None else size_of(config, inherit, trust_remote_code).count
    flops = None
    if inherit.speed is not None:
        whole = build_skeleton(config, trust_remote_code)
        flops = training_flops_per_token(whole, _LENGTH) / inherit.speed.times

    def use(target: "PretrainedConfig") -> float:
        model = build_skeleton(target, trust_remote_code)
        size = 0.0 if most is None else parameter_count(model) / most
        return max(size, 0.0 if flops is None else training_flops_per_token(model, _LENGTH) / flops)

    return use


def keeps_budget(
    config: "PretrainedConfig", inherit: Inherit, blocks: Sequence[int], trust_remote_code: bool = False
) -> bool:
    """Whether the target of these blocks keeps size and speed of `inherit` (see `budget_use`).

    Raises InputError where the blocks make none.
    """
    target = target_config(config, resolve(inherit, config, blocks))
    return budget_use(config, inherit, trust_remote_code)(target) <= 1


def size_of(config: "PretrainedConfig", inherit: Inherit, trust_remote_code: bool = False) -> Size:
    """`inherit.size` as a number of parameters."""
    assert inherit.size is not None
    if isinstance(inherit.size, Size) and inherit.size.unit not in _BYTES:
        return inherit.size
    whole = build_skeleton(config, trust_remote_code)
    if not isinstance(inherit.size, Size):
        return Size(int(parameter_count(whole) * inherit.size), "parameters")
    return Size(int(inherit.size.amount * _BYTES[inherit.size.unit] // whole.dtype.itemsize), "parameters")


def replace_budget(
    config: "PretrainedConfig", inherit: Inherit, trust_remote_code: bool = False,
    reference: "PretrainedConfig | None" = None,
) -> Inherit:  # fmt: skip
    """`inherit` with a number of whole blocks in place of size and speed: the largest that keeps them.

    Both are relative to `reference`, where the model of `config` has lost tokens since. The speed is estimated, see
    `budget_use`. A measured choice has no blocks yet, so the first ones are counted; they have the same size in nearly
    all models. Raises InputError where not even one block keeps the budget.
    """
    if not inherit.has_budget:
        return inherit
    total = layer_count(config)
    choose = "first" if inherit.choose in MEASURED else inherit.choose
    use = budget_use(reference or config, inherit, trust_remote_code)
    low, high = 0, total  # the first `low` blocks are known to fit, more than `high` not to
    while low < high:
        middle = (low + high + 1) // 2
        blocks = select_blocks(middle, choose, total)
        fits = use(target_config(config, resolve(inherit, config, blocks))) <= 1
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0:
        raise above_budget(inherit)
    return without_budget(inherit, low)


def without_budget(inherit: Inherit, layers: int) -> Inherit:
    """`inherit` with a number of blocks in place of size and speed."""
    return inherit.model_copy(update={"layers": layers, "size": None, "speed": None})


def above_budget(inherit: Inherit) -> InputError:
    """The error for a budget that not even one block keeps."""
    if inherit.size is not None:
        what = f"{inherit.size}, and one block with embeddings and head comes to more"
        return InputError("inherit.size", what, "allow more")
    return InputError("inherit.speed", f"{inherit.speed}, and one block is not so fast", "ask for less")
