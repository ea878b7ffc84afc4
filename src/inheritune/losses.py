"""Losses: pure functions on tensors."""

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

_CHUNK = 2**28  # bytes of float32 logits that the chunked form of distillation holds at once
# How many logits `linear_token_losses` holds at once: what a CPU's cache takes, elsewhere enough for large products.
_LOGITS = {"cpu": 2**21}
_LOGITS_ELSEWHERE = 2**26

Form = Literal["whole", "chunked"]


def token_losses(logits_BTV: "torch.Tensor", targets_BT: "torch.Tensor") -> "torch.Tensor":
    """Cross-entropy of each token in nats (B, T), in float32 whatever the logits are. A target of -100 gives 0.

    An entry whose logit is -inf is forbidden: it has probability 0 and no gradient. The loss of a forbidden target is
    inf. Both hold for all cross-entropies of this module.
    """
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
        kind = autocast_dtype(hidden)
        if kind is not None:
            weight_VD, bias_V = weight_VD.to(kind), None if bias_V is None else bias_V.to(kind)
        return functional.linear_cross_entropy(
            hidden.to(weight_VD.dtype), weight_VD, targets, linear_bias=bias_V, reduction="sum",
            options=torch.nn.LinearCrossEntropyOptions(),
        ).float()  # fmt: skip
    logits = functional.linear(hidden, weight_VD, bias_V).float()
    return functional.cross_entropy(logits, targets, reduction="sum")


def linear_token_losses(
    hidden_ND: "torch.Tensor", weight_VD: "torch.Tensor", bias_V: "torch.Tensor | None", targets_N: "torch.Tensor"
) -> "torch.Tensor":
    """Cross-entropy of each token in nats (N,), in float32, from hidden states and a head's weight; -100 gives 0.

    The logits of some entries of the vocabulary are computed at a time, summed up and forgotten; gradients, where they
    are wanted, compute them a second time. Inside autocast the products are in its dtype. With a large vocabulary this
    takes less time than all logits at once, most of whose time goes into memory.
    """
    kind = autocast_dtype(hidden_ND) or weight_VD.dtype
    losses: torch.Tensor = _linear_token_losses().apply(hidden_ND, weight_VD, bias_V, targets_N, kind)
    return losses


def autocast_dtype(like: "torch.Tensor") -> "torch.dtype | None":
    """The dtype of products on a tensor's device, inside autocast; else None."""
    import torch

    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _pieces(
    states_ND: "torch.Tensor", weight_VD: "torch.Tensor", bias_V: "torch.Tensor | None"
) -> "Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]":
    """Entries `begin` to `end` of the vocabulary, their weight (C, D) in the states' dtype, logits (C, N) in float32.

    Both lie in memory that the next piece uses again: to get so much from the system takes longer than to fill it.
    """
    import torch

    kind, vocabulary = states_ND.dtype, len(weight_VD)
    step = max(256, _LOGITS.get(states_ND.device.type, _LOGITS_ELSEWHERE) // max(states_ND.shape))
    product_CN = torch.empty(min(step, vocabulary), len(states_ND), dtype=kind, device=states_ND.device)
    logits_CN = product_CN if kind == torch.float32 else torch.empty_like(product_CN, dtype=torch.float32)
    same = weight_VD.dtype == kind
    cast_CD = None if same else torch.empty(len(product_CN), weight_VD.shape[1], dtype=kind, device=states_ND.device)
    for begin in range(0, vocabulary, step):
        end = min(begin + step, vocabulary)
        weight_CD = weight_VD[begin:end]
        if cast_CD is not None:
            weight_CD = cast_CD[: end - begin].copy_(weight_CD)
        torch.mm(weight_CD, states_ND.mT, out=product_CN[: end - begin])
        found_CN = logits_CN[: end - begin]
        if logits_CN is not product_CN:
            found_CN.copy_(product_CN[: end - begin])
        if bias_V is not None:
            found_CN.add_(bias_V[begin:end, None])
        yield begin, end, weight_CD, found_CN


@cache
def _linear_token_losses() -> Any:
    """The function with its gradients; made when it is first wanted, as to import torch takes seconds."""
    import torch
    from torch.autograd.function import once_differentiable

    class Losses(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden_ND: Any, weight_VD: Any, bias_V: Any, targets_N: Any, kind: Any) -> Any:
            states_ND, sums = hidden_ND.to(kind), []
            wanted_N = torch.zeros(len(states_ND), device=states_ND.device)
            with torch.autocast(states_ND.device.type, enabled=False):
                for begin, end, _, logits_CN in _pieces(states_ND, weight_VD, bias_V):
                    here = torch.nonzero((targets_N >= begin) & (targets_N < end))[:, 0]
                    wanted_N[here] = logits_CN[targets_N[here] - begin, here]
                    # entries that a bias of -inf forbids may fill a piece
                    largest_N = logits_CN.amax(0).clamp_(min=torch.finfo(torch.float32).min)
                    sums.append(logits_CN.sub_(largest_N).exp_().sum(0).log_().add_(largest_N))
            sum_N = torch.stack(sums).logsumexp(0)
            ctx.save_for_backward(states_ND, weight_VD, bias_V, targets_N, sum_N)
            ctx.given = hidden_ND.dtype
            return torch.where(targets_N < 0, 0.0, sum_N - wanted_N)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, slopes_N: Any) -> Any:
            states_ND, weight_VD, bias_V, targets_N, sum_N = ctx.saved_tensors
            wanted = ctx.needs_input_grad
            hidden_slope = torch.zeros_like(states_ND, dtype=torch.float32) if wanted[0] else None
            weight_slope = torch.empty_like(weight_VD) if wanted[1] else None
            bias_slope = torch.empty_like(bias_V) if wanted[2] else None
            slopes_N = torch.where(targets_N < 0, 0.0, slopes_N)
            with torch.autocast(states_ND.device.type, enabled=False):
                for begin, end, weight_CD, logits_CN in _pieces(states_ND, weight_VD, bias_V):
                    change_CN = logits_CN.sub_(sum_N).exp_()
                    here = torch.nonzero((targets_N >= begin) & (targets_N < end))[:, 0]
                    change_CN[targets_N[here] - begin, here] -= 1
                    change_CN.mul_(slopes_N)
                    if bias_slope is not None:
                        bias_slope[begin:end] = change_CN.sum(1)
                    rounded_CN = change_CN.to(states_ND.dtype)
                    if hidden_slope is not None:
                        hidden_slope += rounded_CN.mT @ weight_CD
                    if weight_slope is not None:
                        weight_slope[begin:end] = rounded_CN @ states_ND
            if hidden_slope is not None:
                hidden_slope = hidden_slope.to(ctx.given)
            return hidden_slope, weight_slope, bias_slope, None, None

    return Losses


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

    An entry to which the teacher gives probability 0 counts nothing, though the student may forbid it as well (with a
    logit of -inf). Where the student forbids an entry to which the teacher gives probability, the divergence is inf.
    Gradients are finite in both cases.
    """
    import torch

    scaled = _scaled(logits_NV, temperature)
    if teacher.indices is not None:
        indices = teacher.indices.long()
        has_rest = teacher.log_probabilities.shape[1] > indices.shape[1]
        scaled = _with_rest(scaled, indices) if has_rest else scaled.gather(1, indices)
    expected = teacher.log_probabilities.float()
    weights = expected.exp()
    each = weights * (expected - torch.log_softmax(scaled, dim=1))
    return torch.where(weights > 0, each, 0.0).sum(dim=1)  # 0 times inf would be NaN


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
    others_NV = logits_NV.scatter(1, indices_NK, -torch.inf)
    # Where all others are forbidden, logsumexp's gradient would be NaN: it is given one number that counts nothing.
    forbidden_N1 = others_NV.detach().amax(dim=1, keepdim=True) == -torch.inf
    filler_N1 = torch.where(forbidden_N1, 0.0, -torch.inf).to(others_NV.dtype)
    sum_N1 = others_NV.scatter_(1, indices_NK[:, :1], filler_N1).logsumexp(dim=1, keepdim=True)
    return torch.cat([chosen, torch.where(forbidden_N1, -torch.inf, sum_N1)], dim=1)


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
    shares = (student, entropy), ((1 - student) * temperature**2, divergence)
    loss = torch.stack([share * term for share, term in shares if share > 0]).sum()  # not 0 times inf, which is NaN
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
