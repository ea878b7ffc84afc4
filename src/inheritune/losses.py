"""Losses: pure functions on tensors."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def token_losses(logits_BTV: "torch.Tensor", targets_BT: "torch.Tensor") -> "torch.Tensor":
    """Cross-entropy of each token in nats, in float32 whatever the logits are. Returns shape (B, T)."""
    from torch.nn import functional

    flat = functional.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="none")
    return flat.view(targets_BT.shape)


def next_token_losses(model: "torch.nn.Module", tokens_BS: "torch.Tensor") -> "torch.Tensor":
    """Loss of each next-token prediction within sequences of S = T + 1 tokens. Returns shape (B, T).

    `model` is a transformers causal language model (or its compiled form), called without cache and labels.
    """
    logits_BTV = model(input_ids=tokens_BS[:, :-1], use_cache=False).logits
    return token_losses(logits_BTV, tokens_BS[:, 1:])
