"""How fast a training runs on this machine, compared with the machine's limit, and whether it runs at all."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.bench.machine import known_peak, matrix_rates
    from inheritune.bench.measurement import bench, end_to_end_rate, one_step
    from inheritune.bench.shapes import SHAPES, recipe_shape, request

__getattr__, __dir__ = lazy.exports(__name__)
