"""Units by the size of their weights. Source: Han et al., Learning both weights and connections (2015), for units."""

from inheritune.inheritance.units.criteria.base import Criterion, FixedWorths, Units, Worths


class Magnitude(Criterion):
    """The norm of a unit's weights: the outgoing ones of a neuron or a head, all of a hidden channel. Needs no text."""

    name = "magnitude"
    axes = frozenset({"neurons", "heads", "hidden"})

    def worths(self, units: Units) -> Worths:
        """One number for each unit."""
        assert units.norms_U is not None
        return FixedWorths(units.norms_U)
