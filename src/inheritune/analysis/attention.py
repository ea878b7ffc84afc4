"""Attention matrices as a model computes them, seen block by block: each is handed on and forgotten."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inheritune.arch import block_modules, hidden_of, silence_libraries

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

See = Callable[[int, "torch.Tensor"], None]


@contextmanager
def eager_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Inside, the model computes attention so that its weights exist; other ways give the outputs alone."""
    before = model.config._attn_implementation
    if before == "eager":
        yield
        return
    _set(model, "eager")
    try:
        yield
    finally:
        _set(model, before)


def _set(model: "PreTrainedModel", implementation: str) -> None:
    silence_libraries()
    model.set_attn_implementation(implementation)
    # Refused, with a warning, by models whose code asks the config in every forward (Falcon, Jamba).
    model.config._attn_implementation = implementation


@contextmanager
def attention_seen(model: "PreTrainedModel", see: See) -> Iterator[None]:
    """Inside, `see(block, weights)` is called for each attention of each block in a forward, in their order.

    Weights are (B, H, T, T), rows are queries; where a key cache is off, which is the caller's part. They are found in
    what a block's modules return, so no architecture is named; what returns none (a state-space block, an attention
    that hides them) is not seen. Nothing is kept. The model has to be in `eager_attention`.
    """
    handles = []
    for number, block in enumerate(block_modules(model)):
        inside = _Inside(number, see)
        handles.append(block.register_forward_pre_hook(inside.enter, with_kwargs=True))
        for name, module in block.named_modules():
            if name:
                handles.append(module.register_forward_hook(inside.look))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nothing() -> None:
    return None


class _Inside:
    """Looks at what one block's modules return; weights that several of them return are seen once."""

    def __init__(self, number: int, see: See) -> None:
        self.number, self.see = number, see
        self.shape: tuple[int, int] = (0, 0)
        self.last: Any = _nothing  # a weak reference: held, every block's weights would live until the next forward

    def enter(self, block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        hidden = hidden_of(given, named)
        self.shape = (hidden.shape[-3], hidden.shape[-2])  # some models carry several streams in front
        self.last = _nothing

    def look(self, module: Any, given: Any, returned: Any) -> None:
        if not isinstance(returned, tuple):
            return
        for value in returned[1:]:
            if is_attention(value, *self.shape) and value is not self.last():
                self.last = weakref.ref(value)
                self.see(self.number, value)


def is_attention(value: Any, batch: int, length: int) -> bool:
    """Whether a value is attention weights over `length` positions: no later position has weight, no row above 1."""
    import torch

    if not torch.is_tensor(value) or value.dim() != 4 or not value.is_floating_point():
        return False
    if value.shape[0] != batch or tuple(value.shape[-2:]) != (length, length):
        return False
    with torch.no_grad():
        rows = value.detach().float()
        causal = length == 1 or not bool(rows.triu(1).any())
        return causal and bool((rows >= 0).all()) and bool((rows.sum(-1) <= 1.01).all())
