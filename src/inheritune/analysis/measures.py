"""What attention and blocks do, in figures: pure functions on tensors.

Attention matrices are (..., T, T), causal, softmax over rows; every function takes any leading dimensions. Sources:
arXiv 2404.08634 v4 (mass, lazy layers); Xiao et al., 2309.17453 (attention sink); Men et al., 2403.03853 (block
influence); Gromov et al., 2403.17887 (angular distance).
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from inheritune.analysis.rank import check_tau

COLLAPSED_BELOW = 1.5
"""A head is collapsed when its rank, a mean over sequences, is below: it is 1 more often than not."""

_NEAR = 1e-5  # an upper bound of the error of shares in float32; shares that are nearer to tau are taken in float64
_EXACT = 1e-9  # so that nine of ten equal shares reach 0.9, whatever the rounding of their sum


def valid_only(attention: torch.Tensor, valid_BT: torch.Tensor) -> torch.Tensor:
    """Attention (B, H, T, T) with rows and columns of padding set to zero; `valid_BT` is true for real tokens."""
    both_BTT = valid_BT[:, :, None] & valid_BT[:, None, :]
    return attention.masked_fill(~both_BTT[:, None], 0)


def column_mass(attention: torch.Tensor, tau: float = 0.9) -> torch.Tensor:
    """m* (...): the least number of columns whose squared norms sum to tau of the squared Frobenius norm.

    Raises InputError for a tau outside (0, 1). Source: arXiv 2404.08634 v4.
    """
    check_tau((tau,))
    matrices_NTT = attention.reshape(-1, *attention.shape[-2:])
    shares_NT = _column_shares(matrices_NTT.float())
    close_N = ((shares_NT - tau).abs() < _NEAR).any(-1)
    if bool(close_N.any()):
        shares_NT[close_N] = _column_shares(matrices_NTT[close_N].double())
    return ((shares_NT < tau - _EXACT).sum(-1) + 1).clamp(max=attention.shape[-1]).view(attention.shape[:-2])


def _column_shares(matrices_NTT: torch.Tensor) -> torch.Tensor:
    """The share of the squared norm in the 1, 2, ... T largest columns, (N, T) in float64."""
    norms_NT = matrices_NTT.square().sum(-2).double().sort(-1, descending=True).values
    return norms_NT.cumsum(-1) / norms_NT.sum(-1, keepdim=True)


def sink_weight(attention: torch.Tensor, valid_BT: torch.Tensor | None = None) -> torch.Tensor:
    """The mean weight that positions give to the first one (...); the first, which has no choice, included.

    With `valid_BT` attention is (B, H, T, T), and the first valid position counts.
    """
    if valid_BT is None:
        return attention[..., 0].float().mean(-1)
    first_B = valid_BT.int().argmax(-1)
    column_BHT = attention.float()[torch.arange(len(first_B)), :, :, first_B]
    return (column_BHT * valid_BT[:, None]).sum(-1) / valid_BT.sum(-1)[:, None]


def row_entropy(attention: torch.Tensor, valid_BT: torch.Tensor | None = None) -> torch.Tensor:
    """The mean entropy of the rows (...), in nats: 0 where each looks at one place. `valid_BT` as in `sink_weight`."""
    rows: torch.Tensor = torch.special.entr(attention.float()).sum(-1)
    if valid_BT is None:
        return rows.mean(-1)
    return (rows * valid_BT[:, None]).sum(-1) / valid_BT.sum(-1)[:, None]


def block_influence(before_BTD: torch.Tensor, after_BTD: torch.Tensor) -> torch.Tensor:
    """1 - cosine between a block's input and output, mean over positions, (B,). Source: arXiv 2403.03853, section 3."""
    return (1 - _cosine(before_BTD, after_BTD)).mean(-1)


def angular_distance(before_BTD: torch.Tensor, after_BTD: torch.Tensor) -> torch.Tensor:
    """The angle between hidden states in half turns (0 same, 1 opposite), mean over positions, (B,).

    Source: arXiv 2403.17887, section 3, which takes the last position alone.
    """
    return (_cosine(before_BTD, after_BTD).clamp(-1, 1).arccos() / math.pi).mean(-1)


def _cosine(before_BTD: torch.Tensor, after_BTD: torch.Tensor) -> torch.Tensor:
    # In float64, as the angle between vectors that are nearly the same is lost in float32.
    return functional.cosine_similarity(before_BTD.flatten(2).double(), after_BTD.flatten(2).double(), dim=-1)


def is_lazy(rank: float) -> bool:
    """Whether a MaxRank, or a group's AvgRank, counts as 1: its whole part is. Source: arXiv 2404.08634 v4."""
    return math.floor(rank) <= 1


def lazy_groups(max_ranks: Sequence[float | None]) -> list[list[int]]:
    """The longest runs of two or more neighbouring layers whose AvgRank (mean MaxRank) is lazy; no two overlap.

    A layer without attention (None) belongs to none.
    """
    runs = []
    for first in range(len(max_ranks)):
        for last in range(len(max_ranks) - 1, first, -1):
            ranks = max_ranks[first : last + 1]
            known = [rank for rank in ranks if rank is not None]
            if len(known) == len(ranks) and is_lazy(sum(known) / len(known)):
                runs.append(list(range(first, last + 1)))
                break
    groups: list[list[int]] = []
    for run in sorted(runs, key=lambda run: (-len(run), run)):
        if not any(set(run) & set(other) for other in groups):
            groups.append(run)
    return sorted(groups)


def depth_distances(states: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """From the hidden states (B, T, D) at L + 1 depths: `block_influence` of each block (B, L), and `angular_distance`
    between all pairs of depths (B, L + 1, L + 1).
    """
    # In float64, as in `_cosine`.
    units_BTLD = torch.stack([functional.normalize(state.double(), dim=-1) for state in states], dim=2)
    cosines_BTLL = (units_BTLD @ units_BTLD.mT).clamp(-1, 1)
    influence_BL = (1 - cosines_BTLL.diagonal(offset=1, dim1=2, dim2=3)).mean(1)
    return influence_BL, (cosines_BTLL.arccos() / math.pi).mean(1)
