"""Criteria for units, one file each: each subclass of `Criterion` is found and registered by its name."""

from inheritune.inheritance.units.criteria.base import Criterion
from inheritune.settings import subclasses_in

CRITERIA: dict[str, type[Criterion]] = {
    kind.name: kind for kind in subclasses_in(__name__, __path__, Criterion, helpers=["base"])
}
"""All criteria, by name."""
