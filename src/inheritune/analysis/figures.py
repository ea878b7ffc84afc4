"""All figures of one model on one set of sequences."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from inheritune.analysis.ablation import Trials
from inheritune.analysis.forward_statistics import attention_of, pass_through
from inheritune.analysis.gradients import gradient_norms
from inheritune.analysis.measures import COLLAPSED_BELOW, is_lazy, lazy_groups
from inheritune.data import Rows
from inheritune.results import Attention, AttentionMap, Block, Distances, Figure, Gradients, Head, Maps, ModelFigures
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def describe(
    model: "PreTrainedModel", rows: Rows, *, tau: Sequence[float] = (0.9,), micro_batch: int = 8,
    loss_sequences: int | None = None, precision: str = "float32", name: str = "model",
) -> tuple[ModelFigures, tuple[torch.Tensor, torch.Tensor] | None]:  # fmt: skip
    """A model's figures on sequences of text, and the attention matrices (T, T) of a potent and a lazy head; None for
    these where no block shows attention weights.

    Attention and distances are taken on the inputs of each sequence, its prefix included; losses, which take longer, on
    the first `loss_sequences` sequences (default: all), gradients on up to eight of these, both with products in
    `precision` (float32 or bfloat16). The model, in evaluation mode and on its device, does not change.
    Raises InputError for a tau outside (0, 1), RunError for hidden states that are not finite.
    """
    clock = _Clock()
    logger.info(f"{name}: attention and distances")
    passed = pass_through(model, rows, tau, micro_batch)
    clock.note("attention", less=passed.rank_seconds)
    clock.seconds["rank"] = round(passed.rank_seconds, 3)
    some = rows.rows(range(len(rows))[:loss_sequences])
    logger.info(f"{name}: losses with each of {len(passed.heads)} blocks skipped, and at every depth")
    count = len(passed.heads)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=precision != "float32"):
        trials = Trials(model, some, micro_batch)
        skipped = trials.skip_increases()
        depths = [trials.at_depth(depth + 1) for depth in range(count)]
        clock.note("losses")
        gradients = gradient_norms(model, some.rows(range(len(some))[:8]))
        clock.note("gradients")
    blocks = [
        Block(
            block=number,
            attention=_attention(passed.heads[number], tau),
            influence=mean(passed.influence[:, number]),
            skipped=mean(skipped[number]),
            depth_loss=mean(depths[number]),
            gradients=None if gradients[number] is None else Gradients.model_validate(gradients[number]),
        )
        for number in range(count)
    ]
    maps, drawings = _maps(model, rows.rows([0]).examples().inputs[0].to(model.device), blocks, tau)
    attentions = {block.block: block.attention for block in blocks if block.attention is not None}
    collapsed = [head.collapsed for attention in attentions.values() for head in attention.heads]
    why = "what its blocks return shows no attention weights: they mix positions in another way, or keep them"
    figures = ModelFigures(
        layers=count,
        loss=mean(trials.losses),
        blocks=blocks,
        angular_distance=_distances(passed.distances),
        no_attention=None if attentions else why,
        lazy_layers=[block for block, attention in attentions.items() if attention.lazy] if attentions else None,
        lazy_groups=lazy_groups(max_ranks(blocks, tau[0])) if attentions else None,
        collapsed_share=sum(collapsed) / len(collapsed) if collapsed else None,
        maps=maps,
        seconds=clock.seconds,
    )
    return figures, drawings


def mean(values: torch.Tensor | Sequence[float]) -> Figure:
    """Mean and standard error over sequences; the error is None for a single one."""
    numbers = [float(value) for value in values]
    middle = math.fsum(numbers) / len(numbers)
    if len(numbers) < 2:
        return Figure(mean=middle, se=None)
    variance = math.fsum((value - middle) ** 2 for value in numbers) / (len(numbers) - 1)
    return Figure(mean=middle, se=math.sqrt(variance / len(numbers)))


def max_ranks(blocks: Sequence[Block], tau: float) -> list[float | None]:
    """MaxRank of each block; None where no attention is seen."""
    return [block.attention.max_rank[f"{tau:g}"].mean if block.attention else None for block in blocks]


def _attention(heads_NHF: torch.Tensor | None, tau: Sequence[float]) -> Attention | None:
    """A block's heads, MaxRank (the rank of the head with the highest mean) and AvgMass (mean of the heads' masses)."""
    if heads_NHF is None:
        return None
    names = [f"{share:g}" for share in tau]
    ranks = heads_NHF[..., : len(tau)]
    heads = []
    for head_NF in heads_NHF.unbind(1):
        rank = {name: mean(head_NF[:, at]) for at, name in enumerate(names)}
        mass, sink, entropy = (mean(head_NF[:, len(tau) + at]) for at in range(3))
        collapsed = rank[names[0]].mean < COLLAPSED_BELOW
        heads.append(Head(rank=rank, mass=mass, sink=sink, entropy=entropy, collapsed=collapsed))
    highest = {name: heads[int(ranks[..., at].mean(0).argmax())].rank[name] for at, name in enumerate(names)}
    return Attention(
        heads=heads,
        max_rank=highest,
        avg_mass=mean(heads_NHF[..., len(tau)].mean(1)),
        lazy=is_lazy(highest[names[0]].mean),
    )


def _distances(distances_NLL: torch.Tensor) -> list[Distances]:
    """Angular distance across 1, 2, ... L blocks, from each block on."""
    depths = distances_NLL.shape[1]
    return [
        Distances(
            blocks=across, distances=[mean(distances_NLL[:, at, at + across]) for at in range(depths - across)]
        )
        for across in range(1, depths)
    ]  # fmt: skip


def _maps(
    model: "PreTrainedModel", inputs_T: torch.Tensor, blocks: Sequence[Block], tau: Sequence[float]
) -> tuple[Maps | None, tuple[torch.Tensor, torch.Tensor] | None]:
    """The head of highest rank in the model, and the one of highest rank in the layer of lowest MaxRank."""
    ranks = {
        (block.block, at): head.rank[f"{tau[0]:g}"].mean
        for block in blocks
        if block.attention is not None
        for at, head in enumerate(block.attention.heads)
    }
    if not ranks:
        return None, None
    laziest = min((rank, at) for at, rank in enumerate(max_ranks(blocks, tau[0])) if rank is not None)[1]
    potent = max(ranks, key=lambda place: ranks[place])
    lazy = max((place for place in ranks if place[0] == laziest), key=lambda place: ranks[place])
    heads = [AttentionMap(block=place[0], head=place[1], rank=ranks[place]) for place in (potent, lazy)]
    drawn = attention_of(model, inputs_T, [potent, lazy])
    return Maps(potent=heads[0], lazy=heads[1]), (drawn[0], drawn[1])


class _Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def note(self, name: str, less: float = 0.0) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last - less, 3), now
