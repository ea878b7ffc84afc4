"""What an analysis measures of each block and each head: how it is read, called and written."""

from collections.abc import Callable
from dataclasses import dataclass

from inheritune.results import Block, Figure, Head


@dataclass(frozen=True)
class Curve:
    """One figure of each block. `read` gives None where it was not measured."""

    label: str
    """In the legend; empty where the measure has this one curve."""
    column: str
    form: str
    """How a value is written in a table, as format() takes it."""
    read: Callable[[Block], Figure | None]


@dataclass(frozen=True)
class Measure:
    """A chart over the blocks."""

    name: str
    title: str
    axis: str
    about: str
    curves: tuple[Curve, ...]
    ringed: Curve | None = None
    """The curve on which lazy layers are marked."""


@dataclass(frozen=True)
class HeadMeasure:
    """A heat map of heads x blocks; `key` is the figure's name in a head."""

    key: str
    title: str
    axis: str
    about: str

    def read(self, head: Head, tau: float) -> Figure:
        """A head's figure; its rank at `tau`."""
        figure: Figure = at_tau(head.rank, tau) if self.key == "rank" else getattr(head, self.key)
        return figure


HEAD_MEASURES = (
    HeadMeasure("rank", "Rank", "rank", "orange where the head has collapsed"),
    HeadMeasure("mass", "Mass", "columns", "how many columns hold most of the squared norm"),
    HeadMeasure("sink", "Sink", "weight", "how much looks at the first position; 1 is all"),
    HeadMeasure("entropy", "Entropy", "entropy (nats)", "of the rows; 0 where each looks at one position"),
)


def attention_measures(taus: list[float]) -> list[Measure]:
    """MaxRank, with a curve for each tau, and AvgMass."""
    several = len(taus) > 1
    ranks = tuple(
        Curve(f"tau {tau:g}" if several else "", f"MaxRank at {tau:g}" if several else "MaxRank", ".2f", _max_rank(tau))
        for tau in taus
    )
    return [
        Measure(
            "max-rank", "MaxRank by layer", "MaxRank",
            "The rank of the layer's most potent head. Ringed: lazy layers, where it rounds down to 1.",
            ranks,
            ringed=ranks[0],
        ),
        Measure(
            "avg-mass", "AvgMass by layer", "AvgMass (columns)",
            "How many columns of a head's attention matrix hold most of its squared norm, averaged over the heads.",
            (Curve("", "AvgMass", ".1f", lambda block: block.attention.avg_mass if block.attention else None),),
        ),
    ]  # fmt: skip


BLOCK_MEASURES = [
    Measure(
        "influence", "Block influence", "1 - cosine",
        "1 less the cosine between a block's input and output: how much the block turns the hidden state.",
        (Curve("", "influence", ".4f", lambda block: block.influence),),
    ),
    Measure(
        "skipped", "Loss when the block is skipped", "change of the loss (nats a token)",
        "The loss without the block less the loss with it, on the same tokens.",
        (Curve("", "skipped", "+.3f", lambda block: block.skipped),),
    ),
    Measure(
        "depth-loss", "Loss by depth", "loss (nats a token)",
        "The loss when the hidden state after this block goes straight through the final norm and the head.",
        (Curve("", "depth loss", ".3f", lambda block: block.depth_loss),),
    ),
]  # fmt: skip

GRADIENTS = Measure(
    "gradients", "Gradient norms of queries and keys", "Frobenius norm",
    "Norms of the gradients of the query and the key projection on a batch.",
    (
        Curve("query", "query grad.", "#.2g", lambda block: _gradient(block, "query")),
        Curve("key", "key grad.", "#.2g", lambda block: _gradient(block, "key")),
    ),
)  # fmt: skip


def all_measures(taus: list[float]) -> list[Measure]:
    """Every measure that has a figure for each block, in the order of the page."""
    return [*attention_measures(taus), *BLOCK_MEASURES, GRADIENTS]


def at_tau(ranks: dict[str, Figure], tau: float) -> Figure:
    """The figure at `tau` out of those at each, whose keys are numbers as text."""
    return next(figure for key, figure in ranks.items() if float(key) == tau)


def written(figure: Figure | None, form: str) -> str:
    """`12.31 ±0.42`; without an error (a single sequence, a mean of heads) just the value; a dash for nothing."""
    if figure is None:
        return "–"
    return format(figure.mean, form) + ("" if figure.se is None else f" ±{figure.se:{form.lstrip('+')}}")


def _max_rank(tau: float) -> Callable[[Block], Figure | None]:
    return lambda block: at_tau(block.attention.max_rank, tau) if block.attention else None


def _gradient(block: Block, key: str) -> Figure | None:
    norm = getattr(block.gradients, key, None)
    return None if norm is None else Figure(mean=norm, se=None)
