"""The loss of each token from hidden states, with the logits of a part of the vocabulary at a time."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from inheritune.losses.functional import autocast_dtype

_LOGITS, _LOGITS_ON_CPU = 2**26, 2**21  # held at once: enough for large products; what fits into a CPU's cache


def linear_token_losses(
    hidden_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None, targets_N: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of each token in nats (N,), in float32, from hidden states and a head's weight; -100 gives 0.

    The logits of some entries of the vocabulary are computed at a time and summed up; the backward pass computes them a
    second time. Inside autocast the products are in its dtype. With a large vocabulary this takes less time than
    all logits at once, which spend most of it on memory.
    """
    dtype = autocast_dtype(hidden_ND) or weight_VD.dtype
    losses: torch.Tensor = _LinearTokenLosses.apply(hidden_ND, weight_VD, bias_V, targets_N, dtype)  # type: ignore[no-untyped-call]
    return losses


def _pieces(
    states_ND: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None
) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
    """Entries `begin` to `end` of the vocabulary, their weight (C, D) in the states' dtype, logits (C, N) in float32.

    Each piece reuses the memory of the one before, as allocating new memory takes longer than filling it.
    """
    dtype, vocabulary = states_ND.dtype, len(weight_VD)
    logits = _LOGITS_ON_CPU if states_ND.device.type == "cpu" else _LOGITS
    step = max(256, logits // max(states_ND.shape))
    product_CN = torch.empty(min(step, vocabulary), len(states_ND), dtype=dtype, device=states_ND.device)
    float_CN = product_CN if dtype == torch.float32 else torch.empty_like(product_CN, dtype=torch.float32)
    same = weight_VD.dtype == dtype
    cast_CD = None if same else torch.empty(len(product_CN), weight_VD.shape[1], dtype=dtype, device=states_ND.device)
    for begin in range(0, vocabulary, step):
        end = min(begin + step, vocabulary)
        weight_CD = weight_VD[begin:end]
        if cast_CD is not None:
            weight_CD = cast_CD[: end - begin].copy_(weight_CD)
        torch.mm(weight_CD, states_ND.mT, out=product_CN[: end - begin])
        logits_CN = float_CN[: end - begin]
        if float_CN is not product_CN:
            logits_CN.copy_(product_CN[: end - begin])
        if bias_V is not None:
            logits_CN.add_(bias_V[begin:end, None])
        yield begin, end, weight_CD, logits_CN


class _LinearTokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Any, weight_VD: Any, bias_V: Any, targets_N: Any, dtype: Any) -> Any:
        states_ND, sums = hidden_ND.to(dtype), []
        target_logits_N = torch.zeros(len(states_ND), device=states_ND.device)
        with torch.autocast(states_ND.device.type, enabled=False):
            for begin, end, _, logits_CN in _pieces(states_ND, weight_VD, bias_V):
                here = torch.nonzero((targets_N >= begin) & (targets_N < end))[:, 0]
                target_logits_N[here] = logits_CN[targets_N[here] - begin, here]
                # entries that a bias of -inf forbids may fill a piece
                largest_N = logits_CN.amax(0).clamp_(min=torch.finfo(torch.float32).min)
                sums.append(logits_CN.sub_(largest_N).exp_().sum(0).log_().add_(largest_N))
        sum_N = torch.stack(sums).logsumexp(0)
        ctx.save_for_backward(states_ND, weight_VD, bias_V, targets_N, sum_N)
        ctx.hidden_dtype = hidden_ND.dtype
        return torch.where(targets_N < 0, 0.0, sum_N - target_logits_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes_N: Any) -> Any:
        states_ND, weight_VD, bias_V, targets_N, sum_N = ctx.saved_tensors
        needed = ctx.needs_input_grad
        hidden_slope = torch.zeros_like(states_ND, dtype=torch.float32) if needed[0] else None
        weight_slope = torch.empty_like(weight_VD) if needed[1] else None
        bias_slope = torch.empty_like(bias_V) if needed[2] else None
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
            hidden_slope = hidden_slope.to(ctx.hidden_dtype)
        return hidden_slope, weight_slope, bias_slope, None, None
