"""The results of `analyze`: analysis.json."""

from inheritune.results.files import ResultFile, ResultPart
from inheritune.results.run import BlockChoice


class Figure(ResultPart):
    """A mean over sequences and its standard error, which is None for a single sequence."""

    mean: float
    se: float | None


class Head(ResultPart):
    """A head of attention."""

    rank: dict[str, Figure]
    """By tau, as text."""
    mass: Figure
    sink: Figure
    entropy: Figure
    """In nats."""
    collapsed: bool


class Attention(ResultPart):
    """The attention of a block. MaxRank is the highest mean rank of a head, AvgMass the mean of the heads' masses."""

    heads: list[Head]
    max_rank: dict[str, Figure]
    """By tau, as text."""
    avg_mass: Figure
    lazy: bool


class Gradients(ResultPart):
    """Frobenius norms of the gradients of two projections; None where a block has no such projection."""

    query: float | None
    key: float | None


class Block(ResultPart):
    """A block. None: not measured."""

    block: int
    """Its number, from 0."""
    attention: Attention | None
    influence: Figure | None
    """1 less the cosine between its input and output."""
    skipped: Figure | None
    """The loss without it less the loss with it, in nats a token."""
    depth_loss: Figure | None
    """The loss when its output goes straight to the final norm and the head, in nats a token."""
    gradients: Gradients | None


class Distances(ResultPart):
    """Angular distances across runs of so many blocks, by the first of them."""

    blocks: int
    distances: list[Figure]


class AttentionMap(ResultPart):
    """A head whose attention matrix was kept."""

    block: int
    head: int
    rank: float


class Maps(ResultPart):
    """The attention matrices that were kept of a model, in `file` (.npz, keys potent and lazy, each (T, T))."""

    potent: AttentionMap
    lazy: AttentionMap
    file: str | None = None


class ModelFigures(ResultPart):
    """What `describe` measures of a model. None: no block shows attention weights, for the reason `no_attention`."""

    layers: int
    loss: Figure
    blocks: list[Block]
    angular_distance: list[Distances]
    no_attention: str | None
    lazy_layers: list[int] | None
    lazy_groups: list[list[int]] | None
    collapsed_share: float | None
    """Of all heads."""
    maps: Maps | None
    seconds: dict[str, float | None]
    """By stage."""


class AnalyzedModel(ModelFigures):
    """A model in analysis.json."""

    name: str
    path: str | None
    """None: a model in memory."""
    parameters: int
    prefix: list[int] | None = None
    selection: BlockChoice | None


class AnalyzedText(ResultPart):
    """The text that models were seen on."""

    source: str
    sequences: int
    sequence_length: int
    loss_sequences: int
    """The first ones, on which losses were taken."""


class Analysis(ResultFile):
    """analysis.json."""

    REMEDY = "analyse the model again"

    text: AnalyzedText
    loss_precision: str = "float32"
    tau: list[float]
    """Shares of the squared norm that ranks hold."""
    collapsed_below: float
    """The rank below which a head has collapsed."""
    models: list[AnalyzedModel]
