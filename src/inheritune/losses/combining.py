"""Several losses of one batch: those on logits, all at once or in chunks of tokens, and the weighted sum of all."""

from collections.abc import Callable, Sequence

import torch
from torch.utils.checkpoint import checkpoint

from inheritune.losses.base import LogitsLoss, Loss, Ramp
from inheritune.losses.functional import Distribution

CHUNK = 2**28
"""Bytes of float32 logits that `in_chunks` holds at once."""

LogitsOf = Callable[[torch.Tensor], torch.Tensor]
"""The head: from hidden states (N, D) to logits (N, V)."""
DistributionOf = Callable[[slice], Distribution] | None
"""A teacher's distribution of some tokens; None without a teacher."""


def on_logits(
    logits_of: LogitsOf, losses: Sequence[LogitsLoss], states_ND: torch.Tensor, targets_N: torch.Tensor,
    teacher: DistributionOf, tokens: slice = slice(None),  # a constant
) -> torch.Tensor:  # fmt: skip
    """The losses (S,) of some tokens, without their weights."""
    logits, targets = logits_of(states_ND[tokens]), targets_N[tokens]
    distribution = None if teacher is None else teacher(tokens)
    return torch.stack([loss.of_logits(logits, targets, distribution) for loss in losses])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def in_chunks(
    logits_of: LogitsOf, losses: Sequence[LogitsLoss], states_ND: torch.Tensor, targets_N: torch.Tensor,
    teacher: DistributionOf, vocabulary: int,
) -> torch.Tensor:  # fmt: skip
    """`on_logits` of all tokens without holding all logits: the backward pass computes those of a chunk again."""
    size = max(1, CHUNK // (4 * vocabulary))
    sums = [
        checkpoint(
            on_logits, logits_of, losses, states_ND, targets_N, teacher, slice(first, first + size),
            use_reentrant=False, preserve_rng_state=False,
        )
        for first in range(0, len(states_ND), size)
    ]  # fmt: skip
    return torch.stack(sums).sum(dim=0)


def weighted_sum(
    losses: Sequence[Loss], values: Sequence[torch.Tensor], weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The weighted sum of the losses' values, and behind it the values, which have no gradient: (1 + S,).

    `weights` (S,) are the present weights of losses that have ramps. A weight of 0 excludes a loss, even one of inf.
    """
    parts = []
    for number, (loss, value) in enumerate(zip(losses, values, strict=True)):
        if isinstance(loss.weight, Ramp):
            assert weights is not None
            parts.append(torch.where(weights[number] > 0, weights[number] * value, 0.0))
        elif loss.weight > 0:
            parts.append(value if loss.weight == 1.0 else loss.weight * value)
    return torch.stack([torch.stack(parts).sum(), *(value.detach().to(values[0]) for value in values)])
