"""The optimizer and its learning rate."""

import math
from typing import TYPE_CHECKING

from inheritune.recipe import Optimizer, Schedule

if TYPE_CHECKING:
    import torch


def build_optimizer(model: "torch.nn.Module", settings: Optimizer) -> "torch.optim.AdamW":
    """AdamW in two groups: tensors of two or more dimensions decay, all others (norms, biases) do not."""
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,
    )


def learning_rate(step: int, steps: int, warm_up: int, peak: float, schedule: Schedule) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`.

    Rises linearly over `warm_up` steps, reaching the peak at the last of them; then stays (constant) or falls along a
    half cosine (Loshchilov and Hutter, 2017) to `schedule.final` times the peak at the last step.
    """
    if step < warm_up:
        return peak * (step + 1) / warm_up
    if schedule.name == "constant":
        return peak
    after = max(1, steps - 1 - warm_up)
    share = min(1.0, (step - warm_up) / after)
    return peak * (schedule.final + (1 - schedule.final) * 0.5 * (1 + math.cos(math.pi * share)))
