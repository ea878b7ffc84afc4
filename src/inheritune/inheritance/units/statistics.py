"""One pass of a model over text, for the choice of units: what goes into the matrices behind neurons and heads, the
hidden states between the blocks, gradients, and which experts tokens are sent to.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from inheritune.arch import block_modules, channel_dimensions, channel_norms, check_room, find_unit_matrices, split_head
from inheritune.data import Examples, Rows
from inheritune.inheritance.units.criteria.base import Axis, Need
from inheritune.inheritance.units.watching import InputSums, Matrices, Routing, Watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_HELD = 512  # tokens whose activations are held at once for gradients


@dataclass
class UnitStatistics:
    """What one pass has found, in float64."""

    needs: frozenset[Need] = frozenset()
    """What was asked for."""
    inputs: dict[tuple[int, str], InputSums] = field(default_factory=dict)
    """By block and axis, of the matrix behind its neurons and of that behind its heads."""
    routing: dict[int, Routing] = field(default_factory=dict)
    """By block."""
    products_DD: Any = None
    """The mean of h h^T / |h|^2, where h are the inputs of the blocks and the output of the last one."""
    absolute_D: Any = None
    """The mean of |h_c| / |h| over the same."""
    norms: dict[str, torch.Tensor] = field(default_factory=dict)
    """For each norm over the hidden channels, the mean share of each channel in the squared norm of its input (D,)."""
    gradients: dict[tuple[int | None, str], torch.Tensor] = field(default_factory=dict)
    """Sums of |gradient x weight| over what a micro-batch has as gradients: by block and axis over the outgoing weights
    of each neuron or head, and for each hidden channel (block None) over all its weights."""


def collect_statistics(
    model: "PreTrainedModel", rows: Rows, needs: Collection[Need], *, blocks: Sequence[int] | None = None,
    axes: Collection[Axis] = ("neurons", "heads", "hidden", "experts"), micro_batch: int = 8,
) -> UnitStatistics:  # fmt: skip
    """Run the model, in float32 and evaluation mode, over the inputs of `rows`; see `UnitStatistics`.

    Only what `needs` names is collected, of these blocks (None: all) and axes. Tokens without a target that counts are
    left out. `gradients` takes a backward pass, and the model has no gradients afterwards. Memory: for `inputs`, the
    squared widths of MLP and attention for each block.
    """
    check_room(model, max(rows.lengths))
    seen, modules = UnitStatistics(frozenset(needs)), block_modules(model)
    numbers = range(len(modules)) if blocks is None else blocks
    matrices: Matrices = {
        (number, axis): (modules[number].get_submodule(matrix.name), matrix)
        for number, own in enumerate(find_unit_matrices(model))
        for axis, matrix in own.items()
        if axis in axes and number in numbers
    }
    if {"inputs", "stream", "routing"} & set(needs):
        watch = Watch(
            modules, matrices if "inputs" in needs else {}, channel_norms(model) if "stream" in needs else {},
            numbers if "routing" in needs else (), streams="stream" in needs,
        )  # fmt: skip
        head = split_head(model)
        with torch.no_grad():
            for _, examples in rows.batches(micro_batch):
                batch = examples.to(model.device)
                with watch.batch(batch):
                    head.outputs(input_ids=batch.inputs)
        seen.inputs, seen.routing = watch.inputs, watch.routing
        if "stream" in needs:
            states = watch.counted * (len(modules) + 1)
            seen.products_DD, seen.absolute_D = watch.products_DD / states, watch.absolute_D / states
            seen.norms = {name: shares_D / watch.counted for name, shares_D in watch.shares.items()}
    if "gradients" in needs:
        seen.gradients = _gradients(model, rows, matrices, "hidden" in axes)
    return seen


def _gradients(
    model: "PreTrainedModel", rows: Rows, matrices: Matrices, channels: bool
) -> dict[tuple[int | None, str], torch.Tensor]:
    """`UnitStatistics.gradients`."""
    head, width = split_head(model), model.get_input_embeddings().weight.shape[-1]
    own = {key: module.weight for key, (module, _) in matrices.items()}
    wanted: dict[Any, tuple[int, ...]] = dict.fromkeys(own.values(), ()) | (channel_weights(model) if channels else {})
    sums: dict[tuple[int | None, str], Any] = {}
    before = {weight: weight.requires_grad for weight in model.parameters()}
    model.requires_grad_(False)
    for weight in wanted:
        weight.requires_grad_()
    try:
        for _, examples in rows.batches(max(1, _HELD // max(rows.lengths))):
            effects = dict(zip(wanted, _effects(model, head, examples, list(wanted)), strict=True))
            for key, (_, matrix) in matrices.items():
                effect_KD = inputs_first(matrices[key][0], effects[own[key]])
                sums[key] = sums.get(key, 0) + effect_KD.sum(1).view(matrix.count, matrix.size).sum(1)
            for weight, places in wanted.items():
                if places:
                    sums[None, "hidden"] = sums.get((None, "hidden"), 0) + sum_by_channel(
                        effects[weight], places, width
                    )
    finally:
        for weight, needed in before.items():
            weight.requires_grad_(needed)
    return sums


def channel_weights(model: "PreTrainedModel") -> dict[Any, tuple[int, ...]]:
    """The parameters with hidden channels, tied ones once, and the dimensions along which these are."""
    tensors: dict[str, Any] = dict(model.named_parameters())
    return {tensors[name]: places for name, places in channel_dimensions(model).items() if name in tensors}


def sum_by_channel(entries: torch.Tensor, places: Sequence[int], width: int) -> torch.Tensor:
    """The sums (D,) over the entries of each of `width` channels, which are along the dimensions `places`."""
    sums_D = torch.zeros(width, dtype=torch.float64, device=entries.device)
    for place in places:
        sums_D += entries.movedim(place, 0).reshape(entries.shape[place], -1).sum(1).view(-1, width).sum(0)
    return sums_D


def _effects(model: "PreTrainedModel", head: Any, examples: Examples, weights: list[Any]) -> list[torch.Tensor]:
    """|gradient x weight| of the summed loss, entry by entry."""
    batch = examples.to(model.device)
    with torch.enable_grad():
        loss = head.token_losses(head.states(head.outputs(input_ids=batch.inputs)), batch.targets).sum()
        slopes = torch.autograd.grad(loss, weights, allow_unused=True)
    return [
        torch.zeros_like(weight) if slope is None else (slope * weight.detach()).abs()
        for slope, weight in zip(slopes, weights, strict=True)
    ]


def inputs_first(module: Any, weight: torch.Tensor) -> torch.Tensor:
    """A linear module's weight, or what belongs to its entries, as (K inputs, D outputs)."""
    return weight.T if isinstance(module, torch.nn.Linear) else weight  # transformers' Conv1D has the inputs first
