"""What a criterion for units is given and gives."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    import torch

    from inheritune.inheritance.units.watching import InputSums, Routing

Axis = Literal["neurons", "heads", "hidden", "experts"]
Need = Literal["inputs", "stream", "gradients", "routing"]
"""What a criterion looks at: inputs of output matrices, hidden states, gradients, or the router."""


@dataclass(frozen=True)
class Units:
    """The neurons, heads or experts of a block, or a model's hidden channels, with what is known about them.

    Of `count` units, each has `size` of the K inputs of a matrix. For hidden channels there is no matrix: K is their
    number, and each is worth as much as any other. What a criterion does not need is None.
    """

    axis: Axis
    count: int
    size: int = 1
    weight_KD: "torch.Tensor | None" = None
    """The outgoing weights of neurons and heads."""
    norms_U: "torch.Tensor | None" = None
    """The norm of each unit's weights: of the outgoing ones, for hidden channels of all."""
    inputs: "InputSums | None" = None
    gradients_U: "torch.Tensor | None" = None
    routing: "Routing | None" = None


class Worths(ABC):
    """What units are worth, while some of them are dropped."""

    lost: float = 0.0
    """What the units dropped so far were worth, as a share of what all are."""

    @abstractmethod
    def cost(self, units: Sequence[int]) -> float:
        """What dropping these units, which are there, would add to `lost`."""

    @abstractmethod
    def drop(self, units: Sequence[int]) -> None:
        """Drop units that are there."""

    @abstractmethod
    def drop_least(self, units: Sequence[int], number: int) -> list[int]:
        """Drop so many of these units, the least worthy ones; returns which."""


class Criterion:
    """A way to tell which units matter. Each subclass in a file of this folder is found by its `name`."""

    name: ClassVar[str]
    axes: ClassVar[frozenset[Axis]]
    needs: ClassVar[frozenset[Need]] = frozenset()

    def worths(self, units: Units) -> Worths:
        """What these units are worth."""
        raise NotImplementedError


class FixedWorths(Worths):
    """Units whose worth does not depend on which others there are: the worth of several is the sum."""

    def __init__(self, scores_U: "torch.Tensor") -> None:
        self._scores = scores_U.double().tolist()
        self._total = sum(self._scores) or 1.0

    def cost(self, units: Sequence[int]) -> float:
        """The share of their scores."""
        return float(sum(self._scores[unit] for unit in units) / self._total)

    def drop(self, units: Sequence[int]) -> None:
        """Add what they cost."""
        self.lost += self.cost(units)

    def drop_least(self, units: Sequence[int], number: int) -> list[int]:
        """Drop those of the lowest scores, of equal ones the first."""
        least = sorted(units, key=lambda unit: self._scores[unit])[:number]
        self.drop(least)
        return least
