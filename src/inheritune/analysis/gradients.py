"""Gradients of the weights that make queries and keys, by block. Source: arXiv 2404.08634 v4 (collapsed heads)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from inheritune.analysis.attention import attention_seen, eager_attention
from inheritune.analysis.block_skipping import losses_of_tokens
from inheritune.arch import block_modules, split_head
from inheritune.data import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HELD = 512  # tokens whose activations are held at once
_TOKENS = 4  # of the input that distinguishes a projection's features


@dataclass(frozen=True)
class Projection:
    """A linear module and which of its output features become queries and keys, each a boolean vector."""

    module: Any
    query: torch.Tensor
    key: torch.Tensor


def find_projections(model: "PreTrainedModel") -> list[list[Projection]]:
    """For each block the projections that make its queries and keys, found by what its attention weights depend on.

    The outputs of all linear modules are replaced by random numbers, so that each weight depends on them alone. The
    last position's weights depend on its query and on the keys of all positions: a feature that matters at earlier
    positions makes keys, one that matters at the last alone makes queries. So fused projections of any layout are told
    apart. A block whose attention is not seen (see `attention_seen`) has none.
    """
    outputs: list[list[tuple[Any, torch.Tensor]]] = [[] for _ in block_modules(model)]
    projections: list[list[Projection]] = [[] for _ in outputs]
    generator = torch.Generator().manual_seed(0)

    def see(number: int, weights_BHTT: torch.Tensor) -> None:
        if not weights_BHTT.requires_grad:
            return
        last_BHT = weights_BHTT[:, :, -1]
        draw = torch.rand(last_BHT.shape, generator=generator).to(last_BHT)  # rows sum to 1: a plain sum has no slope
        leaves = [leaf for _, leaf in outputs[number]]
        slopes: Any = torch.autograd.grad((last_BHT * draw).sum(), leaves, retain_graph=True, allow_unused=True)
        for (module, _), slope in zip(outputs[number], slopes, strict=True):
            if slope is None:
                continue
            here_TF = slope.view(_TOKENS, -1) != 0
            key = here_TF[:-1].any(0)
            projections[number].append(Projection(module, here_TF[-1] & ~key, key))

    tokens_BT = torch.arange(_TOKENS, device=model.device).unsqueeze(0) % model.config.vocab_size
    hooks = _random_outputs(model, outputs, generator), attention_seen(model, see)
    with eager_attention(model), hooks[0], hooks[1], torch.enable_grad():
        model(input_ids=tokens_BT, use_cache=False)
    return projections


@contextmanager
def _random_outputs(model: "PreTrainedModel", outputs: list[Any], generator: torch.Generator) -> Iterator[None]:
    """Inside, linear modules of the blocks return random numbers, which are appended to `outputs` by block."""
    from transformers.pytorch_utils import Conv1D

    def replaced(number: int) -> Any:
        def replace(module: Any, args: Any, made: torch.Tensor) -> torch.Tensor:
            leaf = torch.randn(made.shape, generator=generator).to(made).requires_grad_()
            outputs[number].append((module, leaf))
            return leaf.clone()  # some add to it in place

        return replace

    with ExitStack() as hooks:
        for number, block in enumerate(block_modules(model)):
            for module in block.modules():
                if isinstance(module, torch.nn.Linear | Conv1D):
                    hooks.enter_context(module.register_forward_hook(replaced(number)))
        yield


def gradient_norms(model: "PreTrainedModel", rows: Rows) -> list[dict[str, float] | None]:
    """By block the Frobenius norms of the loss's gradients in the weights that make queries and keys.

    The loss is the mean over all targets of the sequences, in nats. None for a block whose attention is not seen,
    or whose weights are whole numbers. The model does not change and has no gradients afterwards.
    """
    projections = [
        each if all(one.module.weight.is_floating_point() for one in each) else [] for each in find_projections(model)
    ]
    wanted: list[Any] = list({one.module.weight: None for each in projections for one in each})
    slopes = [torch.zeros_like(weight) for weight in wanted]
    head = split_head(model)
    before = {weight: weight.requires_grad for weight in model.parameters() if weight.is_floating_point()}
    for weight in before:  # all of them, as autocast caches rounded weights only if they require gradients
        weight.requires_grad_(head.linear is None or weight is not head.linear.weight)
    torch.clear_autocast_cache()  # weights that were rounded in a pass without gradients have none
    try:
        with torch.enable_grad():
            counted, each = rows.examples().counted, max(1, _HELD // (rows.sequence_length + 1))
            for _, examples in rows.batches(each) if wanted else ():
                batch = examples.to(model.device)
                loss = losses_of_tokens(model, head, batch.inputs, batch.targets).sum() / counted
                for slope, part in zip(slopes, torch.autograd.grad(loss, wanted, allow_unused=True), strict=True):
                    if part is not None:
                        slope += part
    finally:
        for weight, needed in before.items():
            weight.requires_grad_(needed)
    by_weight = dict(zip(wanted, slopes, strict=True))
    return [_norms(each, by_weight) if each else None for each in projections]


def _norms(projections: list[Projection], slopes: dict[Any, torch.Tensor]) -> dict[str, float]:
    sums = {"query": 0.0, "key": 0.0}
    for one in projections:
        slope = slopes[one.module.weight]
        rows_FD = (
            slope if isinstance(one.module, torch.nn.Linear) else slope.T
        )  # GPT-2's Conv1D has features in columns
        for name, features in (("query", one.query), ("key", one.key)):
            sums[name] += float(rows_FD[features].double().square().sum())
    return {name: total**0.5 for name, total in sums.items()}
