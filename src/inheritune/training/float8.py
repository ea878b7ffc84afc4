"""Matrix products in float8, with torchao: weights stay float32 and are rounded, scaled, for each product."""

from collections.abc import Iterable
from importlib.util import find_spec

import torch

from inheritune.errors import InputError

_CAPABILITY = (8, 9)
_MULTIPLE = 16  # what the products' sides must be a multiple of


def check_float8(device: str) -> None:
    """Raise InputError where products in float8 cannot be: without torchao, or on a device that has none."""
    place, remedy = "train.precision", "give bfloat16, float32 or auto"
    if device != "cuda" or torch.cuda.get_device_capability() < _CAPABILITY:
        here = device if device != "cuda" else torch.cuda.get_device_name()
        raise InputError(place, f"float8, on {here}: only GPUs of compute capability 8.9 or more have it", remedy)
    if find_spec("torchao") is None:
        what = "float8, and the package torchao, which does that, is not installed"
        raise InputError(place, what, f"pip install 'inheritune[float8]', or {remedy}")


def use_float8(blocks: Iterable[torch.nn.Module], emulate: bool = False) -> int:
    """Let the linear layers of these blocks multiply in float8; returns how many do.

    Layers whose sides are no multiple of 16 stay as they are, and so do all layers outside the blocks (embeddings and
    head). `emulate` rounds in the same way and multiplies in float32, on any device, for tests.
    Source: Micikevicius et al., FP8 formats for deep learning, 2022; scales for each tensor.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    changed = 0

    def fits(module: torch.nn.Module, name: str) -> bool:
        nonlocal changed
        sides = (module.in_features, module.out_features) if isinstance(module, torch.nn.Linear) else (1,)
        fitting = all(side % _MULTIPLE == 0 for side in sides)
        changed += fitting
        return fitting

    for block in blocks:
        convert_to_float8_training(block, config=Float8LinearConfig(emulate=emulate), module_filter_fn=fits)
    return changed
