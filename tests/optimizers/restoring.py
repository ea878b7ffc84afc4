"""Restoring an optimizer's state in memory, as training does it from a checkpoint."""

from collections.abc import Mapping, Sequence

import torch

from inheritune.optimizers.stepping import allocate_state, copy_parameters, state_tensors


def load_state(
    model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Copy the tensors into the states of a model's parameters, which have their loaded values already."""
    allocate_state(model, optimizers)
    with torch.no_grad():
        for name, tensor in state_tensors(model, optimizers).items():
            tensor.copy_(tensors[name])
    copy_parameters(model, optimizers)
