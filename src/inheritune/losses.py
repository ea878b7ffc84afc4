"""Losses: pure functions on tensors."""

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

_CHUNK = 2**28  # bytes of float32 logits that the chunked form of distillation holds at once

Form = Literal["whole", "chunked"]


def token_losses(logits_BTV: "torch.Tensor", targets_BT: "torch.Tensor") -> "torch.Tensor":
    """Cross-entropy of each token in nats (B, T), in float32 whatever the logits are. A target of -100 gives 0."""
    from torch.nn import functional

    flat = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="none")
    return flat.view(targets_BT.shape)


def linear_cross_entropy(
    hidden_BTD: "torch.Tensor",
    weight_VD: "torch.Tensor",
    bias_V: "torch.Tensor | None",
    targets_BT: "torch.Tensor",
    form: Form = "whole",
) -> "torch.Tensor":
    """The sum of all tokens' cross-entropies in nats, from hidden states and a head's weight; targets of -100 give 0.

    `whole` computes all logits at once, which is fastest where they are small, or compiled. `chunked` never holds more
    than a part of them, and computes its gradients going forward (torch.nn.functional.linear_cross_entropy, from torch
    2.13).
    """
    import torch
    from torch.nn import functional

    hidden, targets = hidden_BTD.flatten(0, 1), targets_BT.flatten()
    if form == "chunked":
        kind = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
        if kind is not None:
            weight_VD, bias_V = weight_VD.to(kind), None if bias_V is None else bias_V.to(kind)
        return functional.linear_cross_entropy(
            hidden.to(weight_VD.dtype), weight_VD, targets, linear_bias=bias_V, reduction="sum",
            options=torch.nn.LinearCrossEntropyOptions(),
        ).float()  # fmt: skip
    logits = functional.linear(hidden, weight_VD, bias_V).float()
    return functional.cross_entropy(logits, targets, reduction="sum")


def has_chunked_form() -> bool:
    """Whether this version of torch has the chunked form."""
    import torch

    return hasattr(torch.nn, "LinearCrossEntropyOptions")


class Distribution(NamedTuple):
    """A teacher's distribution of N tokens at some temperature, as log-probabilities in nats.

    Without `indices` those of the whole vocabulary in its order, (N, V). With `indices` (N, K) those of K entries, and
    in one column more that of all others together, (N, K + 1), unless there are no others (K = V).
    """

    log_probabilities: "torch.Tensor"
    indices: "torch.Tensor | None" = None


def log_distribution(logits_NV: "torch.Tensor", temperature: float, top_k: int | None = None) -> Distribution:
    """The distribution of logits at a temperature: whole, or its `top_k` most probable entries, and the rest as one.

    No value is below -60,000, so that float16 can hold them all.
    """
    import torch

    scaled, indices = _scaled(logits_NV, temperature), None
    if top_k is not None:
        indices = scaled.topk(top_k, dim=1).indices
        scaled = _with_rest(scaled, indices)
    return Distribution(torch.log_softmax(scaled, dim=1).clamp(min=-60_000), indices)


def divergences(logits_NV: "torch.Tensor", teacher: Distribution, temperature: float) -> "torch.Tensor":
    """KL(teacher || student) of each token in nats (N,), of the student's logits at a temperature, in float32.

    Of a teacher's K most probable entries: over K + 1 outcomes, the last being all other entries together, so that the
    student must give them the teacher's probability, however it shares that among them. This is at most the divergence
    over the whole vocabulary, and with K = V it is the same.
    """
    import torch

    scaled = _scaled(logits_NV, temperature)
    if teacher.indices is not None:
        indices = teacher.indices.long()
        has_rest = teacher.log_probabilities.shape[1] > indices.shape[1]
        scaled = _with_rest(scaled, indices) if has_rest else scaled.gather(1, indices)
    expected = teacher.log_probabilities.float()
    return (expected.exp() * (expected - torch.log_softmax(scaled, dim=1))).sum(dim=1)


def _scaled(logits_NV: "torch.Tensor", temperature: float) -> "torch.Tensor":
    return logits_NV.float() if temperature == 1.0 else logits_NV.float() / temperature


def _with_rest(logits_NV: "torch.Tensor", indices_NK: "torch.Tensor") -> "torch.Tensor":
    """The logits of some entries, and one of all others together where there are others: (N, K + 1) or (N, V).

    The others are summed up for themselves, as one less the sum of the entries' probabilities is zero in float32 long
    before it is nothing.
    """
    import torch

    chosen = logits_NV.gather(1, indices_NK)
    if indices_NK.shape[1] == logits_NV.shape[1]:
        return chosen
    rest = logits_NV.scatter(1, indices_NK, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([chosen, rest], dim=1)


def distillation(
    logits_NV: "torch.Tensor", targets_N: "torch.Tensor", teacher: Distribution, student: float, temperature: float
) -> "torch.Tensor":
    """[loss, CE, KL], each the sum over the tokens in nats: loss = student * CE + (1 - student) * temperature^2 * KL.

    Only the loss has a gradient. Targets of -100 count nothing, in either term. Source: Hinton, Vinyals and Dean,
    Distilling the knowledge in a neural network, 2015; the factor t^2 keeps the second gradient's size at every t.
    """
    import torch
    from torch.nn import functional

    entropy = functional.cross_entropy(logits_NV.float(), targets_N, reduction="sum")
    each = divergences(logits_NV, teacher, temperature)
    divergence = torch.where(targets_N >= 0, each, 0.0).sum()
    loss = student * entropy + (1 - student) * temperature**2 * divergence
    return torch.stack([loss, entropy.detach(), divergence.detach()])


def chunked_distillation(
    hidden_ND: "torch.Tensor",
    weight_VD: "torch.Tensor",
    bias_V: "torch.Tensor | None",
    targets_N: "torch.Tensor",
    teacher: "Callable[[slice], Distribution]",
    student: float,
    temperature: float,
) -> "torch.Tensor":
    """`distillation` from hidden states and a head's weight, without holding all logits.

    `teacher` gives the distribution of a slice of the tokens. The logits of a slice are computed again going backward.
    """
    import torch
    from torch.nn import functional
    from torch.utils.checkpoint import checkpoint

    def part(tokens: slice) -> "torch.Tensor":
        logits = functional.linear(hidden_ND[tokens], weight_VD, bias_V)
        return distillation(logits, targets_N[tokens], teacher(tokens), student, temperature)

    size = max(1, _CHUNK // (4 * weight_VD.shape[0]))
    slices = [slice(first, first + size) for first in range(0, len(hidden_ND), size)]
    sums = [checkpoint(part, tokens, use_reentrant=False, preserve_rng_state=False) for tokens in slices]
    return torch.stack(sums).sum(dim=0)
