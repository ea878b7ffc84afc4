"""Torch optimizers of any kind: stepped on a condition, with a state that can be stored and restored."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from inheritune.optimizers import OPTIMIZERS
from inheritune.optimizers.base import Optimizer

_Optimizers = Iterable[torch.optim.Optimizer]


def _kind(optimizer: torch.optim.Optimizer) -> type[Optimizer]:
    return next(kind for kind in OPTIMIZERS if kind.owns(optimizer))


def set_learning_rate(optimizers: _Optimizers, rate: float) -> None:
    """Make `rate` the learning rate of the next step of each.

    torchao holds it as a float32 tensor that is compiled into the step, so it is filled and never replaced.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def step_if_finite(optimizers: Sequence[torch.optim.Optimizer], bad: torch.Tensor) -> None:
    """One step of each optimizer, or of none when `bad` is 1.

    `bad` is a float32 tensor without dimensions on the parameters' device: 1 when loss or gradient is not finite, else
    0. With several processes it must be the same on each. With 1, parameters, momenta and step counters keep every bit.

    With AdamW alone, on CUDA or the CPU, the step is queued and the host does not wait: the fused kernel reads
    `bad` on the device (torch skips steps in float16 the same way). With any other optimizer among them the host reads
    `bad` first, which waits for the device.
    """
    if all(_kind(optimizer).skips_on_device(optimizer) for optimizer in optimizers):
        for optimizer in optimizers:
            optimizer.found_inf = bad  # type: ignore[attr-defined]
            try:
                optimizer.step()
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
    elif not bad.item():
        for optimizer in optimizers:
            _kind(optimizer).step(optimizer)


def allocate_state(model: torch.nn.Module, optimizers: _Optimizers) -> None:
    """Give every trained parameter of `model` the state it has before its first step, where it has none yet.

    The state is like the parameter in shape, device and placement (a DTensor's is a DTensor). No parameter changes.
    After this `state_tensors` has all of its keys, so that torch.distributed.checkpoint can load into them in place.
    """
    for _, optimizer, held in _holders(model, optimizers):
        if not optimizer.state[held]:
            optimizer.state[held].update(_kind(optimizer).initial_state(optimizer, held))


def state_tensors(model: torch.nn.Module, optimizers: _Optimizers) -> dict[str, torch.Tensor]:
    """The optimizers' states of a model's parameters as "parameter/field" to tensor; the tensors are not copied.

    AdamW: `step` (no dimensions), `exp_avg`, `exp_avg_sq`; Muon: `momentum_buffer`. An 8-bit state has a third part
    in its name for each plain tensor that it consists of: `codes`, `scale`, `qmap`. Offloaded ones are in the CPU's
    memory. A parameter without a state is not there. The tensors may be non-contiguous.
    """
    return {
        f"{name}/{field}{part}": tensor
        for name, optimizer, held in _holders(model, optimizers)
        for field, value in optimizer.state.get(held, {}).items()
        for part, tensor in _plain(value)
    }


def copy_parameters(model: torch.nn.Module, optimizers: _Optimizers) -> None:
    """After a model's parameters were loaded: renew the copies of them that an offloading optimizer has."""
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, _, held in _holders(model, optimizers):
            if held is not named[name]:
                held.copy_(named[name])


def _holders(model: torch.nn.Module, optimizers: _Optimizers) -> list[tuple[str, torch.optim.Optimizer, torch.Tensor]]:
    """The name of each trained parameter of a model, the optimizer that has its state, and the tensor it has it for."""
    holders = {p: (own, held) for each in optimizers for p, own, held in _kind(each).holders(each)}
    return [(name, *holders[p]) for name, p in model.named_parameters() if p in holders]


def _plain(value: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a state, each with a suffix for its name. A DTensor stays one, as it knows its placement."""
    if not hasattr(value, "__tensor_flatten__"):
        return [("", value)]
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return [("", value)]
    return [(f"/{part}", getattr(value, part)) for part in value.__tensor_flatten__()[0]]
