"""What a training minimises, as a module, so that it can be compiled and spread over processes as one."""

from typing import TYPE_CHECKING, Any, Protocol

import torch

from inheritune.losses import Form, has_chunked_form, linear_cross_entropy, token_losses
from inheritune.training.documents import inside_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_WHOLE_LOGITS = 2 * 2**30  # bytes of float32 logits above which they are not held at once


class LinearHead(Protocol):
    """Logits are `linear(base(...).last_hidden_state * scale)`: what `arch.Head` says of a model."""

    @property
    def base(self) -> torch.nn.Module:
        """Gives the last hidden states."""

    @property
    def linear(self) -> torch.nn.Linear:
        """The head."""

    @property
    def scale(self) -> float:
        """What the hidden states are multiplied with."""


class NextToken(torch.nn.Module):
    """Next-token cross-entropy of a causal language model.

    `forward` gives the sum over all tokens (for training), or with `by_sequence` the mean of each sequence (B,) (for
    judging), in nats. `head` lets it compute the loss without holding all logits; without it the model's own are used.
    With `end_of_text` attention stays inside the documents that end so.
    """

    def __init__(self, model: torch.nn.Module, head: "LinearHead | None", end_of_text: int | None = None) -> None:
        super().__init__()
        self.end_of_text = end_of_text
        self.model = model
        self._head = [head]  # in a list, as its modules are the model's and must not be registered twice
        self.form: Form = "whole"

    def choose_form(self, tokens: int) -> None:
        """Chunked where the logits of `tokens` tokens would take too much memory and torch has that form."""
        head = self._head[0]
        if head is not None:
            large = tokens * head.linear.weight.shape[0] * 4 > _WHOLE_LOGITS
            self.form = "chunked" if large and has_chunked_form() else "whole"

    def forward(self, inputs_BT: torch.Tensor, targets_BT: torch.Tensor, by_sequence: bool = False) -> torch.Tensor:
        """The loss for inputs and targets (B, T)."""
        head = self._head[0]
        given: dict[str, Any] = {"input_ids": inputs_BT}
        if self.end_of_text is not None:
            given = inside_documents(self.model, inputs_BT, self.end_of_text)
        if head is None or by_sequence:
            logits_BTV = self.model(**given, use_cache=False).logits
            losses_BT = token_losses(logits_BTV, targets_BT)
            return losses_BT.double().mean(dim=1) if by_sequence else losses_BT.sum()
        hidden_BTD = head.base(**given, use_cache=False).last_hidden_state
        if head.scale != 1.0:
            hidden_BTD = hidden_BTD * head.scale
        return linear_cross_entropy(hidden_BTD, head.linear.weight, head.linear.bias, targets_BT, self.form)


def checkpoint_activations(blocks: "Sequence[torch.nn.Module]") -> "Callable[[], None]":
    """Let each block keep only its input for the backward pass and compute the rest again; returns what undoes it.

    Source: Chen et al., Training deep nets with sublinear memory cost, 2016.
    """
    from torch.utils.checkpoint import checkpoint

    def again(forward: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*given, **named)
            return checkpoint(forward, *given, use_reentrant=False, **named)

        return run

    each = dict.fromkeys(blocks)  # a block that is used at several depths is one
    own = {block: block.__dict__.get("forward") for block in each}
    for block in each:
        block.forward = again(block.forward)

    def undo() -> None:
        for block, forward in own.items():
            del block.forward
            if forward is not None:
                block.forward = forward

    return undo
