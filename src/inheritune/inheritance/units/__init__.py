"""Which neurons, heads, hidden channels and experts of a model to keep."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.inheritance.units.choice import DEFAULTS, Shape, choose_units
    from inheritune.inheritance.units.criteria import CRITERIA
    from inheritune.inheritance.units.narrowing import (
        Narrowed,
        derive_chosen,
        derive_shape,
        norm_shares,
        rotate_to_components,
    )
    from inheritune.inheritance.units.statistics import UnitStatistics, collect_statistics

__getattr__, __dir__ = lazy.exports(__name__)
