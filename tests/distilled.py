"""Distillation's loss as a training computes it, on plain tensors: at once, and in chunks."""

from collections.abc import Callable

import torch

from inheritune.losses import CrossEntropy, Distillation, KullbackLeibler, LogitsLoss
from inheritune.losses.combining import in_chunks, on_logits, weighted_sum
from inheritune.losses.functional import Distribution


def both(share: float, temperature: float) -> list[LogitsLoss]:
    divergence = KullbackLeibler(Distillation(temperature=temperature))
    divergence.weight = (1 - share) * temperature**2
    return [CrossEntropy(share), divergence]


def distillation(
    logits: torch.Tensor, targets: torch.Tensor, teacher: Distribution, share: float, temperature: float
) -> torch.Tensor:
    """The weighted sum, the cross-entropy and the KL."""
    losses = both(share, temperature)
    values = on_logits(lambda one: one, losses, logits, targets, lambda tokens: teacher)
    return weighted_sum(losses, values.unbind())


def chunked_distillation(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor,
    teacher: Callable[[slice], Distribution], share: float, temperature: float,
) -> torch.Tensor:  # fmt: skip
    losses = both(share, temperature)

    def logits_of(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(states, weight, bias)

    return weighted_sum(losses, in_chunks(logits_of, losses, hidden, targets, teacher, len(weight)).unbind())
