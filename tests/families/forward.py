"""Random weights, tokens and logits: what comparisons of tiny models share."""

from typing import Any

import torch
from transformers import PreTrainedModel

from inheritune.data import Rows

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


def as_rows(tokens_BT: torch.Tensor) -> Rows:
    """Sequences whose inputs are all tokens but the last, and whose targets are all but the first."""
    return Rows(tokens_BT.numpy())


def as_inputs(tokens_BT: torch.Tensor) -> Rows:
    """Sequences whose inputs are these tokens."""
    return Rows(torch.nn.functional.pad(tokens_BT, (0, 1)).numpy())


def logits_of(model: PreTrainedModel, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Logits of shape (batch, length, vocabulary), by a forward without a cache."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    return logits


def logits_through(
    model: PreTrainedModel, blocks: str, kept: list[int], tokens_BT: torch.Tensor, carries: bool = False
) -> torch.Tensor:
    """What the whole model gives when all blocks but `kept` hand on what they got.

    `blocks` is the path of its list of blocks; `carries` says that they hand on all that they are given, in its order.
    """

    def hand_on(block: Any, given: Any, named: Any, got: Any) -> Any:
        if carries:
            return given[: len(got)]
        hidden_BTD = given[0] if given else named["hidden_states"]
        return hidden_BTD if torch.is_tensor(got) else (hidden_BTD, *got[1:])

    hooks = [
        block.register_forward_hook(hand_on, with_kwargs=True)
        for index, block in enumerate(model.get_submodule(blocks))
        if index not in kept
    ]
    try:
        return logits_of(model, tokens_BT)
    finally:
        for hook in hooks:
            hook.remove()
