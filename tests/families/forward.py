"""Random weights, tokens and logits: what comparisons of tiny models share."""

import torch
from transformers import PreTrainedModel

VOCABULARY = 67  # like no other size, so that a matrix with so many rows is embedding or head


def randomised(model: PreTrainedModel, seed: int = 0, scale: float = 0.2) -> PreTrainedModel:
    """`model` in evaluation mode, with noise on all its parameters.

    As initialised, norms are ones and biases zeros, and one that was not copied would not show.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def some_tokens(batch: int = 2, length: int = 16) -> torch.Tensor:
    """Token ids, none of them special, of shape (batch, length)."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(1))


def logits_of(model: PreTrainedModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Logits of shape (batch, length, vocabulary), by a forward without a cache."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    return logits
