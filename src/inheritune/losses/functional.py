"""Losses as pure functions on tensors. All cross-entropies are in nats; a target of -100 counts nothing.

An entry of the vocabulary whose logit is -inf is forbidden: it has probability 0 and no gradient. The loss of a
forbidden target is inf. Both hold for all functions here.
"""

from typing import Literal, NamedTuple

import torch
from torch.nn import functional

Form = Literal["whole", "chunked"]
_WHOLE_LOGITS = 2 * 2**30  # bytes of float32 logits above which they are not held at once


def token_losses(logits_BTV: torch.Tensor, targets_BT: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each token (B, T), in float32 whatever the logits' dtype."""
    flat = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="none")
    return flat.view(targets_BT.shape)


def has_chunked_form() -> bool:
    """Whether this version of torch has the chunked form of `linear_cross_entropy` (2.13 does)."""
    return hasattr(torch.nn, "LinearCrossEntropyOptions")


def are_large(tokens: int, vocabulary: int) -> bool:
    """Whether the logits of so many tokens take too much memory to be held at once (more than 2 GiB in float32)."""
    return tokens * vocabulary * 4 > _WHOLE_LOGITS


def linear_cross_entropy(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, targets_N: torch.Tensor,
    form: Form = "whole",
) -> torch.Tensor:  # fmt: skip
    """The sum of all tokens' cross-entropies, from hidden states and a head's weight.

    `whole` computes all logits at once, which is fastest where they are few, or compiled. `chunked` holds a part of
    them at a time and computes its gradients in the forward pass (torch.nn.functional.linear_cross_entropy).
    """
    if form == "chunked":
        dtype = autocast_dtype(hidden_ND)
        if dtype is not None:
            weight_VD, bias_V = weight_VD.to(dtype), None if bias_V is None else bias_V.to(dtype)
        return functional.linear_cross_entropy(
            hidden_ND.to(weight_VD.dtype), weight_VD, targets_N, linear_bias=bias_V, reduction="sum",
            options=torch.nn.LinearCrossEntropyOptions(),
        ).float()  # fmt: skip
    logits = functional.linear(hidden_ND, weight_VD, bias_V).float()
    return functional.cross_entropy(logits, targets_N, reduction="sum")


def autocast_dtype(like: torch.Tensor) -> torch.dtype | None:
    """The dtype of products on a tensor's device inside autocast; None outside of it."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class Distribution(NamedTuple):
    """A teacher's distribution for N tokens at some temperature, as log-probabilities in nats.

    Without `indices`: those of the whole vocabulary in its order, (N, V). With `indices` (N, K): those of K entries,
    and in one more column that of all other entries together, (N, K + 1), unless there are no others (K = V).
    """

    log_probabilities: torch.Tensor
    indices: torch.Tensor | None = None


def log_distribution(logits_NV: torch.Tensor, temperature: float, top_k: int | None = None) -> Distribution:
    """The distribution of logits at a temperature: whole, or its `top_k` most probable entries and the rest as one.

    No value is below -60,000, so that float16 can hold them all.
    """
    scaled, indices = _scaled(logits_NV, temperature), None
    if top_k is not None:
        indices = scaled.topk(top_k, dim=1).indices
        scaled = _with_rest(scaled, indices)
    return Distribution(torch.log_softmax(scaled, dim=1).clamp(min=-60_000), indices)


def divergences(logits_NV: torch.Tensor, teacher: Distribution, temperature: float) -> torch.Tensor:
    """KL(teacher || student) of each token in nats (N,), of the student's logits at a temperature, in float32.

    With a teacher's K most probable entries the divergence is over K + 1 outcomes. The last one is all other entries
    together: the student must give them the teacher's probability, but may share it among them in any way. This is at
    most the divergence over the whole vocabulary, and equal to it where K = V.

    An entry to which the teacher gives probability 0 adds nothing, even if the student forbids it. Where the student
    forbids an entry to which the teacher gives a probability, the divergence is inf. Gradients are always finite.
    """
    scaled = _scaled(logits_NV, temperature)
    if teacher.indices is not None:
        indices = teacher.indices.long()
        has_rest = teacher.log_probabilities.shape[1] > indices.shape[1]
        scaled = _with_rest(scaled, indices) if has_rest else scaled.gather(1, indices)
    expected = teacher.log_probabilities.float()
    weights = expected.exp()
    each = weights * (expected - torch.log_softmax(scaled, dim=1))
    return torch.where(weights > 0, each, 0.0).sum(dim=1)  # 0 times inf would be NaN


def _scaled(logits_NV: torch.Tensor, temperature: float) -> torch.Tensor:
    return logits_NV.float() if temperature == 1.0 else logits_NV.float() / temperature


def _with_rest(logits_NV: torch.Tensor, indices_NK: torch.Tensor) -> torch.Tensor:
    """The logits of some entries, and one of all others together where there are others: (N, K + 1) or (N, V).

    The others are summed directly. One minus the sum of the chosen probabilities would round to zero in float32.
    """
    chosen = logits_NV.gather(1, indices_NK)
    if indices_NK.shape[1] == logits_NV.shape[1]:
        return chosen
    others_NV = logits_NV.scatter(1, indices_NK, -torch.inf)
    # Where all others are forbidden, the gradient of logsumexp would be NaN, so one entry becomes 0 and is not used.
    forbidden_N1 = others_NV.detach().amax(dim=1, keepdim=True) == -torch.inf
    filler_N1 = torch.where(forbidden_N1, 0.0, -torch.inf).to(others_NV.dtype)
    sum_N1 = others_NV.scatter_(1, indices_NK[:, :1], filler_N1).logsumexp(dim=1, keepdim=True)
    return torch.cat([chosen, torch.where(forbidden_N1, -torch.inf, sum_N1)], dim=1)
