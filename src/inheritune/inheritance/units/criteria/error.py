"""Units by the squared error that remains when the others are refitted.

Sources: Hassibi and Stork, Optimal brain surgeon (1993); Frantar and Alistarh, Optimal brain compression, arXiv
2208.11580, for the output of a matrix and several weights at once.
"""

from collections.abc import Sequence
from typing import Any

import torch

from inheritune.inheritance.units.criteria.base import Criterion, Units, Worths

RIDGE = 0.01
"""How strongly weights are held to their present ones, as a share of the mean square of the inputs."""

_TOGETHER = 32  # inputs whose units go in one update of the whole inverse


class Error(Criterion):
    """The exact increase of the squared error of a matrix's output when units go and the weights of the others are
    fitted anew, by least squares; for hidden channels, what the others cannot predict of a channel.

    Units go one after the other, so of two that do the same, only one goes early.
    """

    name = "error"
    axes = frozenset({"neurons", "heads", "hidden"})
    needs = frozenset({"inputs", "stream"})

    def worths(self, units: Units) -> Worths:
        """Worths that change as units go."""
        assert units.inputs is not None
        products_KK, weight_KD = units.inputs.products_KK, units.weight_KD
        weight_KD = torch.eye(len(products_KK)).to(products_KK) if weight_KD is None else weight_KD
        return ErrorWorths(products_KK, weight_KD, units.size)


class ErrorWorths(Worths):
    """Sums of squared errors + ridge * (mean of the inputs' squares) * |change of weights|^2, as a share of what is
    lost when all units go.
    """

    def __init__(self, products_KK: torch.Tensor, weight_KD: torch.Tensor, size: int, ridge: float = RIDGE) -> None:
        """`products_KK` are sums of products of the inputs, of which each unit has `size`."""
        products_KK = products_KK.double()
        held_KK = products_KK + ridge * products_KK.diagonal().mean() * torch.eye(len(products_KK)).to(products_KK)
        self._size = size
        self._left = _Left(torch.linalg.inv(held_KK), weight_KD.double())
        self._total = float((self._left.weight_KD * (held_KK @ self._left.weight_KD)).sum()) or 1.0

    def cost(self, units: Sequence[int]) -> float:
        """The increase of the error."""
        return self._left.error(self._inputs(units)) / self._total

    def drop(self, units: Sequence[int]) -> None:
        """Refit the weights of the others."""
        self.lost += self.cost(units)
        self._left.remove(self._inputs(units))

    def drop_least(self, units: Sequence[int], number: int) -> list[int]:
        """Drop one unit after the other, each time the one that costs least.

        The inverse of all is updated for several units at once. Which ones is decided on the inverse of a pool that has
        twice as many units of the lowest cost, one after the other.
        """
        left, dropped = list(units), list[int]()
        while len(dropped) < number:
            count = min(max(1, _TOGETHER // self._size), number - len(dropped))
            costs = self._costs(self._left, self._inputs(left))
            pool = [left[place] for place in costs.argsort()[: 2 * count].tolist()]
            inside, open_ = self._left.part(self._inputs(pool)), list(range(len(pool)))
            chosen = []
            for _ in range(count):
                at = self._inputs(open_)
                place = open_.pop(int(self._costs(inside, at).argmin()))
                inside.remove(self._inputs([place]))
                chosen.append(pool[place])
            self.drop(chosen)
            dropped += chosen
            left = [unit for unit in left if unit not in chosen]
        return dropped

    def _costs(self, left: "_Left", inputs: torch.Tensor) -> torch.Tensor:
        """What each of several units costs alone."""
        if self._size == 1:
            alone: torch.Tensor = left.weight_KD[inputs].square().sum(1) / left.inverse_KK.diagonal()[inputs]
            return alone
        return torch.tensor([left.error(unit) for unit in inputs.view(-1, self._size)])

    def _inputs(self, units: Sequence[int]) -> torch.Tensor:
        """The inputs of units, one unit after the other."""
        return (torch.tensor(units)[:, None] * self._size + torch.arange(self._size)).flatten()


class _Left:
    """The inverse of the inputs' products and the weights, of the inputs that are there. Those of the others are 0."""

    def __init__(self, inverse_KK: Any, weight_KD: Any) -> None:
        self.inverse_KK, self.weight_KD = inverse_KK, weight_KD

    def part(self, inputs: torch.Tensor) -> "_Left":
        """The rows and columns of some inputs."""
        return _Left(self.inverse_KK[inputs][:, inputs], self.weight_KD[inputs])

    def error(self, inputs: torch.Tensor) -> float:
        """The increase of the sum when these inputs go."""
        weight_SD = self.weight_KD[inputs]
        return float((weight_SD * torch.linalg.solve(self.inverse_KK[inputs][:, inputs], weight_SD)).sum())

    def remove(self, inputs: torch.Tensor) -> None:
        """Refit the weights of the others."""
        columns_KS = self.inverse_KK[:, inputs]
        both = torch.linalg.solve(columns_KS[inputs], torch.cat([self.weight_KD[inputs], columns_KS.T], 1))
        width = self.weight_KD.shape[1]
        self.weight_KD = self.weight_KD - columns_KS @ both[:, :width]
        self.inverse_KK = self.inverse_KK - columns_KS @ both[:, width:]
        self.weight_KD[inputs], self.inverse_KK[inputs], self.inverse_KK[:, inputs] = 0.0, 0.0, 0.0
