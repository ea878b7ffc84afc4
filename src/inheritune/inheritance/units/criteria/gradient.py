"""Units by what the loss loses with them, to first order. Source: Molchanov et al., Pruning convolutional neural
networks for resource efficient inference (2017), and LLM-Pruner, arXiv 2305.11627, for groups of weights.
"""

from inheritune.inheritance.units.criteria.base import Criterion, FixedWorths, Units, Worths


class Gradient(Criterion):
    """The sum of |gradient x weight| over a unit's weights: the outgoing ones of a neuron or head, all of a channel."""

    name = "gradient"
    axes = frozenset({"neurons", "heads", "hidden"})
    needs = frozenset({"gradients"})

    def worths(self, units: Units) -> Worths:
        """One number for each unit."""
        assert units.gradients_U is not None
        return FixedWorths(units.gradients_U)
