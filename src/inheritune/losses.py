"""Losses: pure functions on tensors."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

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
