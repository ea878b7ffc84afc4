"""The norms over a model's hidden channels, and their gains."""

from typing import TYPE_CHECKING, Any

from inheritune.arch.unit_matrices import channel_dimensions
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def channel_norms(model: "PreTrainedModel") -> "dict[str, torch.nn.Module]":
    """The norms over the hidden channels, by name: modules that hold one number for each channel, and nothing else.

    `model` may be on the meta device. Raises InputError as `channel_dimensions` does.
    """
    dimensions, owned = channel_dimensions(model), dict[str, list[bool]]()
    for name, tensor in model.state_dict().items():
        owned.setdefault(name.rpartition(".")[0], []).append(name in dimensions and tensor.dim() == 1)
    modules = {name: model.get_submodule(name) for name, fits in owned.items() if all(fits)}
    return {name: module for name, module in modules.items() if "norm" in type(module).__name__.lower()}


def gain_offset(norm: Any) -> float | None:
    """What a norm adds to its weight to get its gain: 0, or 1 (Gemma); None where neither is so.

    Without a gain, its output does not depend on its input.
    """
    import torch

    weight, before = norm.weight, norm.weight.detach().clone()
    inputs_ND = torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.no_grad():
        try:
            for offset in (0.0, 1.0):
                weight.fill_(-offset)
                output_ND = norm(inputs_ND)
                if bool((output_ND == output_ND[:1]).all()):
                    return offset
        finally:
            weight.copy_(before)
    return None


def is_root_mean_square(norm: Any, offset: float) -> bool:
    """Whether a norm divides its input by the root of its mean square and multiplies it by its gain, and no more."""
    import torch

    inputs_ND = torch.randn(3, len(norm.weight), generator=torch.Generator().manual_seed(0)).to(norm.weight)
    with torch.no_grad():
        expected_ND = inputs_ND * inputs_ND.square().mean(1, keepdim=True).rsqrt() * (norm.weight + offset)
        return bool(torch.allclose(norm(inputs_ND), expected_ND, rtol=1e-3, atol=1e-4))


def scale_gain(norm: Any, factor: float, name: str) -> None:
    """Multiply the gain of the norm `name` in place. Raises InputError for a norm of another kind."""
    import torch

    offset = gain_offset(norm)
    if offset is None:
        what = f"{name} has no gain that its weight gives, so it cannot make up for missing channels"
        raise InputError("hidden", what, "keep all hidden channels of this architecture")
    with torch.no_grad():
        norm.weight.copy_((norm.weight + offset) * factor - offset)
