"""Attention matrices as a model computes them, passed on block by block and not kept."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from inheritune.arch import block_modules, hidden_of, silence_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel

See = Callable[[int, torch.Tensor], None]


@contextmanager
def eager_attention(model: "PreTrainedModel") -> Iterator[None]:
    """Inside, the model computes attention weights explicitly; other implementations return only the outputs."""
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

    Weights are (B, H, T, T) with queries in rows. The caller switches the key cache off, and uses `eager_attention`.
    The weights are found in what a block's modules return, so no architecture is named. Modules that return none (a
    state-space block, an attention that hides them) are not seen.
    """
    with ExitStack() as hooks:
        for number, block in enumerate(block_modules(model)):
            inside = _Inside(number, see)
            hooks.enter_context(block.register_forward_pre_hook(inside.enter, with_kwargs=True))
            for name, module in block.named_modules():
                if name:
                    hooks.enter_context(module.register_forward_hook(inside.look))
        yield


class _Inside:
    """Looks at what one block's modules return. Weights that several of them return are seen once."""

    def __init__(self, number: int, see: See) -> None:
        self.number, self.see = number, see
        self.shape: tuple[int, int] = (0, 0)
        # a weak reference, as otherwise every block's weights would live until the next forward
        self.last: Callable[[], Any] = lambda: None

    def enter(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = hidden_of(args, kwargs)
        self.shape = (hidden.shape[-3], hidden.shape[-2])  # some models have a dimension of streams in front
        self.last = lambda: None

    def look(self, module: Any, args: Any, returned: Any) -> None:
        if not isinstance(returned, tuple):
            return
        for value in returned[1:]:
            if is_attention(value, *self.shape) and value is not self.last():
                self.last = weakref.ref(value)
                self.see(self.number, value)


def is_attention(value: Any, batch: int, length: int) -> bool:
    """Whether a value is attention weights over `length` positions: causal rows that sum to at most one."""
    if not torch.is_tensor(value) or value.dim() != 4 or not value.is_floating_point():
        return False
    if value.shape[0] != batch or tuple(value.shape[-2:]) != (length, length):
        return False
    with torch.no_grad():
        rows = value.detach().float()
        causal = length == 1 or not bool(rows.triu(1).any())
        return causal and bool((rows >= 0).all()) and bool((rows.sum(-1) <= 1.01).all())
