"""Units by how strongly they are active. Source: Muralidharan et al., Compact language models via pruning and knowledge
distillation (Minitron), arXiv 2407.14679, section 2.2, where the outgoing weights do not count.
"""

from inheritune.inheritance.units.criteria.base import Criterion, FixedWorths, Units, Worths


class Activation(Criterion):
    """The mean absolute activation of a neuron, head or hidden channel, by the norm of its weights.

    For neurons and heads these are the outgoing weights, number by number. A hidden channel counts by its share of the
    hidden state alone.
    """

    name = "activation"
    axes = frozenset({"neurons", "heads", "hidden"})
    needs = frozenset({"inputs", "stream"})

    def worths(self, units: Units) -> Worths:
        """One number for each unit."""
        assert units.inputs is not None
        active_K = units.inputs.absolute_K
        if units.weight_KD is not None:
            active_K = active_K * units.weight_KD.norm(dim=1)
        return FixedWorths(active_K.view(units.count, units.size).sum(1))
