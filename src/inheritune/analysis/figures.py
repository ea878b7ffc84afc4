"""All figures of one model on one set of sequences: what analysis.json says of it."""

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from inheritune.analysis.ablation import Trials, products_in, skip_increases
from inheritune.analysis.forward_statistics import attention_of, pass_through
from inheritune.analysis.gradients import gradient_norms
from inheritune.analysis.measures import COLLAPSED_BELOW, is_lazy, lazy_groups
from inheritune.data import Rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Figures = dict[str, Any]


def describe(
    model: "PreTrainedModel",
    rows: Rows,
    *,
    tau: Sequence[float] = (0.9,),
    micro_batch: int = 8,
    loss_sequences: int | None = None,
    precision: str = "float32",
    say: Callable[[str], None] = lambda _: None,
) -> Figures:
    """A model's figures on sequences of text, as plain data: see docs/analysis.md for every key.

    Attention and distances are taken on the inputs of each sequence, its prefix included; losses, which take longer, on
    the first `loss_sequences` sequences (default: all), gradients on up to eight of these, both with products in
    `precision` (float32 or bfloat16). The model, in evaluation mode and on its device, is left as it was. Under "maps"
    stand the attention matrices (T, T) of a potent and a lazy head, as tensors.
    Raises InputError for a tau outside (0, 1), RunError for hidden states that are not finite.
    """
    clock = _Clock()
    say("attention and distances")
    passed = pass_through(model, rows, tau, micro_batch)
    clock.note("attention", less=passed.rank_seconds)
    clock.seconds["rank"] = round(passed.rank_seconds, 3)
    some = rows.rows(range(len(rows))[:loss_sequences])
    say(f"losses with each of {len(passed.heads)} blocks skipped, and at every depth")
    count = len(passed.heads)
    with products_in(precision, model):
        trials = Trials(model, some, micro_batch)
        skipped = skip_increases(trials, range(count))
        depths = [trials.at_depth(depth + 1) for depth in range(count)]
        clock.note("losses")
        gradients = gradient_norms(model, some.rows(range(len(some))[:8]))
        clock.note("gradients")
    blocks = [
        {
            "block": number,
            "attention": _attention(passed.heads[number], tau),
            "influence": mean(passed.influence[:, number]),
            "skipped": mean(skipped[number]),
            "depth_loss": mean(depths[number]),
            "gradients": gradients[number],
        }
        for number in range(count)
    ]
    found: Figures = {"layers": count, "loss": mean(trials.losses), "blocks": blocks}
    found |= {"angular_distance": _distances(passed.distances)} | _summary(blocks, tau)
    found["maps"] = _maps(model, rows.rows([0]).examples().inputs[0].to(model.device), blocks, tau)
    return found | {"seconds": clock.seconds}


def mean(values: "torch.Tensor | Sequence[float]") -> Figures:
    """Mean and standard error over sequences; the error is None for a single one."""
    numbers = [float(value) for value in values]
    middle = math.fsum(numbers) / len(numbers)
    if len(numbers) < 2:
        return {"mean": middle, "se": None}
    variance = math.fsum((value - middle) ** 2 for value in numbers) / (len(numbers) - 1)
    return {"mean": middle, "se": math.sqrt(variance / len(numbers))}


def max_ranks(blocks: Sequence[Figures], tau: float) -> list[float | None]:
    """MaxRank of each block; None where no attention is seen."""
    return [block["attention"] and block["attention"]["max_rank"][f"{tau:g}"]["mean"] for block in blocks]


def _attention(heads_NHF: "torch.Tensor | None", tau: Sequence[float]) -> Figures | None:
    """A block's heads, MaxRank (the rank of the head with the highest mean) and AvgMass (mean of the heads' masses)."""
    if heads_NHF is None:
        return None
    names = [f"{share:g}" for share in tau]
    ranks = heads_NHF[..., : len(tau)]
    heads = []
    for head_NF in heads_NHF.unbind(1):
        rank = {name: mean(head_NF[:, at]) for at, name in enumerate(names)}
        mass, sink, entropy = (mean(head_NF[:, len(tau) + at]) for at in range(3))
        collapsed = rank[names[0]]["mean"] < COLLAPSED_BELOW
        heads.append({"rank": rank, "mass": mass, "sink": sink, "entropy": entropy, "collapsed": collapsed})
    highest = {name: heads[int(ranks[..., at].mean(0).argmax())]["rank"][name] for at, name in enumerate(names)}
    return {
        "heads": heads,
        "max_rank": highest,
        "avg_mass": mean(heads_NHF[..., len(tau)].mean(1)),
        "lazy": is_lazy(highest[names[0]]["mean"]),
    }


def _summary(blocks: Sequence[Figures], tau: Sequence[float]) -> Figures:
    seen = [block for block in blocks if block["attention"] is not None]
    heads = [head for block in seen for head in block["attention"]["heads"]]
    why = "what its blocks return shows no attention weights: they mix positions in another way, or keep them"
    return {
        "no_attention": None if seen else why,
        "lazy_layers": [block["block"] for block in seen if block["attention"]["lazy"]] if seen else None,
        "lazy_groups": lazy_groups(max_ranks(blocks, tau[0])) if seen else None,
        "collapsed_share": sum(head["collapsed"] for head in heads) / len(heads) if heads else None,
    }


def _distances(distances_NLL: "torch.Tensor") -> list[Figures]:
    """Angular distance across 1, 2, ... L blocks, from each block on."""
    depths = distances_NLL.shape[1]
    return [
        {"blocks": across, "distances": [mean(distances_NLL[:, at, at + across]) for at in range(depths - across)]}
        for across in range(1, depths)
    ]


def _maps(
    model: "PreTrainedModel", inputs_T: "torch.Tensor", blocks: Sequence[Figures], tau: Sequence[float]
) -> Figures | None:
    """The head of highest rank in the model, and the one of highest rank in the layer of lowest MaxRank."""
    name = f"{tau[0]:g}"
    ranks = {
        (block["block"], at): head["rank"][name]["mean"]
        for block in blocks
        if block["attention"] is not None
        for at, head in enumerate(block["attention"]["heads"])
    }
    if not ranks:
        return None
    potent = max(ranks, key=lambda place: ranks[place])
    laziest = min((rank, at) for at, rank in enumerate(max_ranks(blocks, tau[0])) if rank is not None)[1]
    lazy = max((place for place in ranks if place[0] == laziest), key=lambda place: ranks[place])
    drawn = attention_of(model, inputs_T, [potent, lazy])
    return {
        kind: {"block": place[0], "head": place[1], "rank": ranks[place], "attention": drawing}
        for kind, place, drawing in zip(("potent", "lazy"), (potent, lazy), drawn, strict=True)
    }


class _Clock:
    """Seconds since it was last asked."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def note(self, name: str, less: float = 0.0) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last - less, 3), now
