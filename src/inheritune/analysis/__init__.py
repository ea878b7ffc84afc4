"""Which layers work: attention's ranks and mass, what each block is worth, and which blocks to inherit."""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
    from inheritune.analysis.ablation import Trials
    from inheritune.analysis.api import analyze, choose, drops_beside
    from inheritune.analysis.attention import attention_seen, eager_attention
    from inheritune.analysis.block_skipping import Partial
    from inheritune.analysis.choice import choose_blocks, sequences_wanted
    from inheritune.analysis.figures import describe
    from inheritune.analysis.forward_statistics import pass_through
    from inheritune.analysis.gradients import find_projections, gradient_norms
    from inheritune.analysis.measures import (
        angular_distance,
        block_influence,
        column_mass,
        depth_distances,
        is_lazy,
        lazy_groups,
        row_entropy,
        sink_weight,
        valid_only,
    )
    from inheritune.analysis.rank import approximate_rank, approximate_ranks

__getattr__, __dir__ = lazy.exports(__name__)
