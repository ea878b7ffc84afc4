"""What a target may come to, in parameters or bytes, as a number of blocks."""

from typing import TYPE_CHECKING

from inheritune.arch import build_skeleton, layer_count, parameter_count
from inheritune.errors import InputError
from inheritune.inheritance.draft import target_config
from inheritune.recipe import MEASURED, Inherit, Size

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_BYTES = {"GB": 10**9, "MB": 10**6}


def within(config: "PretrainedConfig", spec: Inherit, kept: list[int], trust_remote_code: bool = False) -> bool:
    """Whether the target of these blocks keeps the budget `spec.layers`. Raises InputError where they make no model."""
    assert isinstance(spec.layers, Size)
    decided = spec.model_copy(update={"layers": kept, "choose": "first"})
    target = build_skeleton(target_config(config, decided, layer_count(config)), trust_remote_code)
    size = parameter_count(target)
    if spec.layers.unit in _BYTES:
        return bool(size * target.dtype.itemsize <= spec.layers.amount * _BYTES[spec.layers.unit])
    return size <= spec.layers.amount


def settle(config: "PretrainedConfig", spec: Inherit, trust_remote_code: bool = False) -> Inherit:
    """`spec` with a number of blocks in place of a budget: the most that its choice can take.

    For a measured choice, whose blocks are not known here, the first ones stand in; they are of one size in nearly all
    models. Raises InputError where not even one block keeps the budget.
    """
    if not isinstance(spec.layers, Size):
        return spec
    from inheritune.inheritance.selection import select_blocks

    total = layer_count(config)
    choose = "first" if spec.choose in MEASURED else spec.choose
    low, high = 0, total  # the first `low` blocks are known to fit, more than `high` not to
    while low < high:
        middle = (low + high + 1) // 2
        fits = within(config, spec, select_blocks(middle, choose, total), trust_remote_code)
        low, high = (middle, high) if fits else (low, middle - 1)
    if low == 0:
        raise InputError(
            "inherit.layers", f"{spec.layers}, and one block with embeddings and head comes to more", "allow more"
        )
    return spec.model_copy(update={"layers": low})
