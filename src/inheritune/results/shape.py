"""The shapes that were tried for a size or a speed: shape.json."""

from collections.abc import Sequence

from inheritune.results.files import ResultFile, ResultPart


class MeasuredSpeed(ResultPart):
    """How fast a shape is with random weights, measured in turn with the reference."""

    rate: float
    """Tokens a second, the median."""
    times: float
    """How many times the reference's rate in the same turn, the median."""
    lowest: float
    highest: float


class ShapeCandidate(ResultPart):
    """A shape that was tried; None: all heads, all MLP neurons, all hidden channels."""

    layers: int
    heads: int | None
    mlp: int | None
    hidden: int | None = None
    parameters: int
    generation: MeasuredSpeed | None = None
    """Greedy, one sequence, with cache; None where it was not measured."""
    training: MeasuredSpeed | None = None
    """Forward and backward."""
    loss: float | None = None
    """On text held out, after the refit, in nats a token."""
    recovered: float | None = None
    """The same after a short training; None where it was not among the best."""

    @property
    def words(self) -> str:
        """For people: "20 blocks, 6 heads, MLP 1024"."""
        parts = [f"{self.layers} blocks"]
        parts += [] if self.heads is None else [f"{self.heads} heads"]
        parts += [] if self.mlp is None else [f"MLP {self.mlp}"]
        return ", ".join([*parts, *([] if self.hidden is None else [f"{self.hidden} channels"])])


class ShapeChoice(ResultFile):
    """shape.json: the best shape of a size or a speed, and all that were tried."""

    most: int | None = None
    """Parameters that the model may have."""
    speed: str | None = None
    """How fast it must be: "2x generation"."""
    reference: ShapeCandidate | None = None
    """The reference's own shape, with its loss on the same text."""
    measured_on: str | None = None
    """Device, threads and type of numbers of the speeds."""
    candidates: list[ShapeCandidate]
    chosen: int
    """Its place among them."""
    tokens: int
    """Of the text that units were chosen and blocks were refitted on; 0 where nothing was compared."""
    held_out: int
    """Tokens of the text that the losses are on."""

    @property
    def best(self) -> ShapeCandidate:
        """The one that was chosen."""
        return self.candidates[self.chosen]

    @property
    def goal(self) -> str:
        """For people: "at most 80,000,000 parameters, 2x generation"."""
        size = [] if self.most is None else [f"at most {self.most:,} parameters"]
        return ", ".join([*size, *([] if self.speed is None else [self.speed])])

    @property
    def frontier(self) -> list[int]:
        """Places of the candidates that no other one beats: in parameters, speeds and loss at once."""
        ends = [_ends(one) for one in self.candidates]
        return [at for at, own in enumerate(ends) if own and not any(_beats(other, own) for other in ends)]


def _ends(candidate: ShapeCandidate) -> Sequence[float]:
    """What is better when lower; nothing without a loss."""
    if candidate.loss is None:
        return ()
    speeds = [0.0 if one is None else -one.rate for one in (candidate.generation, candidate.training)]
    return candidate.parameters, candidate.loss, *speeds


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) > 0 and one != other and all(own <= its for own, its in zip(one, other, strict=True))
