"""A training step on fake tensors: what it would allocate and multiply, operation by operation.

The model runs, forward and backward, on fake tensors (shapes and dtypes, no values), with torch's own autocast,
autograd and choice of attention kernels. So what a block keeps for its backward pass is what autograd keeps of that
very architecture, and no formula of one family. Of blocks that are alike one is run.
"""

import contextlib
import logging
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from inheritune.arch import (
    Head,
    assumed_head,
    build_empty,
    find_structure,
    hidden_of,
    replaced_forwards,
    with_hidden,
)

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_OUTSIDE = -1  # the number of everything outside the blocks


@dataclass
class Use:
    """What a block, or all outside the blocks, takes going forward.

    `kept` are bytes that live until the backward pass, without `casts`, which are its weights in another dtype;
    `passed` are those of what it hands on, which is in `kept`. `flops` are the products'.
    """

    kept: int = 0
    casts: int = 0
    passed: int = 0
    flops: int = 0


@dataclass(frozen=True)
class StepUse:
    """What a micro-batch takes beside weights, gradients and optimizer states, in bytes; and the FLOPs of its products.

    `blocks` has an entry for each kind of block, by the number of its first. `logits` is the most that the loss takes
    at once, forward and backward, `working` the most that the backward pass of the blocks takes beside what was kept.
    """

    blocks: dict[int, Use]
    outside: Use
    logits: int
    working: int


class FakeStep:
    """The model of a config on fake tensors. `kinds` has for each block the number of the first block that is like it.

    `half` gives it weights in bfloat16, which FSDP computes with in that precision.
    """

    def __init__(
        self, config: "PretrainedConfig", kinds: Sequence[int], *, half: bool = False, trust_remote_code: bool = False
    ) -> None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.mode, self.kinds = FakeTensorMode(), list(kinds)
        dtype = torch.bfloat16 if half else torch.float32
        with self.mode, _Watch(), torch.device("cpu"):
            self.model: PreTrainedModel = build_empty(config, dtype, trust_remote_code).train()
            self.blocks = list(self.model.get_submodule(find_structure(self.model).blocks))
            for parameter in self.model.parameters():
                parameter.grad = torch.empty_like(parameter)  # those of the micro-batch before

    def run(self, sequences: int, length: int, precision: str) -> StepUse:
        """One micro-batch of `sequences` sequences of `length` tokens, its products in `precision` (`bfloat16` or
        `float32`). Raises what the model raises.
        """
        watch = _Watch([*self.model.parameters(), *self.model.buffers()])
        with self.mode, _treated_as_real(), watch, _first_of_each_kind(self.blocks, self.kinds, watch):
            tokens_BT = torch.zeros((sequences, length), dtype=torch.long)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "float32"):
                loss = self._loss(tokens_BT, watch)
            watch.leave_forward()
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
        return watch.result()

    def _loss(self, tokens_BT: torch.Tensor, watch: "_Watch") -> torch.Tensor:
        """As training computes it: from hidden states where the model ends in a plain linear layer."""
        head = assumed_head(self.model)
        if any(value for name, value in self.model.config.to_dict().items() if "logit_softcap" in name):
            head = Head(self.model)
        states_ND = head.states(head.outputs(input_ids=tokens_BT)).flatten(0, 1)
        before = watch.uses[_OUTSIDE].flops
        loss = head.cross_entropy(states_ND, tokens_BT.flatten(), head.form(tokens_BT.numel()))
        if head.linear is not None:
            # of the product alone: the chunked form computes its gradients in the forward pass
            watch.uses[_OUTSIDE].flops = before + 2 * tokens_BT.numel() * head.linear.weight.numel()
        return loss


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that are alive and the products, block by block. `held` is there all along and not counted."""

    def __init__(self, held: Sequence[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses: dict[int, Use] = {_OUTSIDE: Use()}
        self._weights = {_memory(tensor): tensor for tensor in held}
        gradients = [tensor.grad for tensor in held if tensor.grad is not None]
        self._known = {*self._weights, *map(_memory, gradients)}
        self._held = gradients  # so that no address is used twice
        self._alive: dict[int, Any] = {}
        self._live = self._peak = self._kept = self._logits = 0
        self._at = _OUTSIDE
        self._before = self._before_head = 0
        self._forward = True

    def enter(self, block: int) -> None:
        """From here on it is this block's."""
        self._at, self.uses[block] = block, Use()
        self._before = self._live

    def leave(self, output: torch.Tensor) -> None:
        """The block has given its output, and what it does not keep is gone."""
        use = self.uses[self._at]
        use.passed = output.untyped_storage().nbytes()
        use.kept = self._live - self._before - use.casts
        self._at = _OUTSIDE

    def leave_blocks(self, output: torch.Tensor) -> None:
        """The last block is done: what is alive now was kept, and the loss begins."""
        self._kept = self._peak = self._live
        outside = self.uses[_OUTSIDE]
        taken = sum(use.kept + use.casts for block, use in self.uses.items() if block != _OUTSIDE)
        outside.kept = self._kept - outside.casts - taken
        self._before_head = outside.casts
        output.register_hook(self._begin_backward)  # type: ignore[no-untyped-call]

    def _begin_backward(self, gradient: torch.Tensor) -> None:
        self._logits, self._peak = self._peak - self._kept, self._live

    def leave_forward(self) -> None:
        """What comes now is the backward pass."""
        self._forward = False

    def result(self) -> StepUse:
        """The figures, when the step is over."""
        outside = self.uses.pop(_OUTSIDE)
        outside.casts = self._before_head  # the head's is in `logits`
        return StepUse(self.uses, outside, self._logits, max(0, self._peak - self._kept))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = _answer(func, args, kwargs)
        if self._forward:
            self.uses[self._at].flops += _flops(func, args, kwargs, result)
        for tensor in tree_leaves(result):
            if torch.is_tensor(tensor):
                self._note(tensor, func, args)
        return result

    def _note(self, tensor: torch.Tensor, func: Any, args: Any) -> None:
        storage, key = tensor.untyped_storage(), _memory(tensor)
        if key in self._known or key in self._alive:
            return
        size = storage.nbytes()
        is_cast = func is torch.ops.aten._to_copy.default and _memory(args[0]) in self._weights

        def forget(_: Any) -> None:
            del self._alive[key]
            self._live -= size

        self._alive[key] = weakref.ref(storage, forget)
        self._live += size
        self._peak = max(self._peak, self._live)
        if is_cast and self._forward:
            self.uses[self._at].casts += size


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _answer(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation's result; where a value is asked for, one: masks are looked at, whether they mask anything."""
    if func is torch.ops.aten._local_scalar_dense.default:
        return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
    if func is torch.ops.aten._grouped_mm.default:  # without values torch takes the dtype of one GPU's kernel only
        left, right = args[0], args[1]
        groups = (kwargs.get("offs", args[2] if len(args) > 2 else left).shape[0],) if left.dim() == right.dim() else ()
        return left.new_empty((*groups, left.shape[-2], right.shape[-1]))
    return func(*args, **kwargs)


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """FLOPs of a product, as torch's FlopCounterMode counts them; which lacks two that the CPU has."""
    if func is torch.ops.aten._grouped_mm.default:
        return 2 * int(args[0].shape[-2] * args[0].shape[-1] * args[1].shape[-1])
    if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))  # type: ignore[no-untyped-call]
    counts = flop_registry.get(func._overloadpacket)
    return 0 if counts is None else int(counts(*args, **kwargs, out_val=result))


@contextlib.contextmanager
def _treated_as_real() -> Iterator[None]:
    """Inside, transformers makes masks as in a training, where for fake tensors it would make one that hides nothing;
    and torch does not log what is raised anyway.
    """
    from transformers import masking_utils

    before, logger = masking_utils.is_tracing, logging.getLogger("torch._subclasses.fake_tensor")
    masking_utils.is_tracing, logger.disabled = lambda tensor=None: False, True
    try:
        yield
    finally:
        masking_utils.is_tracing, logger.disabled = before, False


def _first_of_each_kind(
    blocks: Sequence[torch.nn.Module], kinds: Sequence[int], watch: _Watch
) -> contextlib.AbstractContextManager[None]:
    """Inside, a block that is like an earlier one passes on its input, in the form of that one's output."""
    outputs: dict[int, Any] = {}

    def run(place: int, own: Any) -> Any:
        def first(*args: Any, **kwargs: Any) -> Any:
            watch.enter(place)
            output = outputs[place] = own(*args, **kwargs)
            watch.leave(hidden_of(output))
            return output

        def like(*args: Any, **kwargs: Any) -> Any:
            return _passed_on(hidden_of(args, kwargs), outputs[kinds[place]])

        def last(*args: Any, **kwargs: Any) -> Any:
            output = chosen(*args, **kwargs)
            watch.leave_blocks(hidden_of(output))
            return output

        chosen = first if kinds[place] == place else like
        return last if place == len(blocks) - 1 else chosen

    return replaced_forwards(blocks, run)


def _passed_on(hidden: torch.Tensor, output: Any) -> Any:
    """`output` with these hidden states in the place of its own, where they have their shape and dtype."""
    own = hidden_of(output)
    fits = hidden.shape == own.shape and hidden.dtype == own.dtype
    return with_hidden(output, hidden) if fits else output
