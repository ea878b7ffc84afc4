"""Experts by what the router gives them."""

from inheritune.inheritance.units.criteria.base import Criterion, FixedWorths, Units, Worths


class Router(Criterion):
    """The sum of the weights with which tokens are sent to an expert."""

    name = "router"
    axes = frozenset({"experts"})
    needs = frozenset({"routing"})

    def worths(self, units: Units) -> Worths:
        """One number for each expert."""
        assert units.routing is not None
        return FixedWorths(units.routing.weights_E)
