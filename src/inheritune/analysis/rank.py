"""Approximate ranks of many attention matrices: exact, though most eigenvalues are not computed.

The squared singular values of A are the eigenvalues of the Gram matrix G = A times its transpose, whose trace is their
sum. There are three steps, each for the matrices that the one before did not settle:

1. The largest share of one eigenvalue is at least the sum of squared shares, |G|^2 / tr(G)^2: heads that have collapsed
   altogether have rank 1 by that alone.
2. A few steps of subspace iteration give bounds from both sides on the sums of the largest eigenvalues. Where k* is the
   same by both, it is k*.
3. All eigenvalues, in float32; where their sums come near tau, again in float64.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from inheritune.errors import InputError

_NEAR = 1e-7  # times T: an upper bound of the error of sums of T eigenvalues in float32, as a share of the trace
_EXACT = 1e-9  # the same for float64, so that nine of ten equal values reach 0.9
_NUMBERS = 2**20  # in a chunk of matrices on a CPU, which stays in a core's cache from one step to the next
_WIDTH, _STEPS = 16, 2  # vectors and steps of the subspace iteration
_SPREAD = 5.0  # with more directions than this, by the squared shares, bounds would seldom meet


def check_tau(tau: Sequence[float]) -> None:
    """Raise InputError unless there is at least one share and each lies in (0, 1), none twice."""
    wrong = [share for share in tau if not 0 < share < 1]
    if wrong or not tau or len(set(tau)) < len(tau):
        shown = ", ".join(f"{share:g}" for share in tau) or "nothing"
        raise InputError("tau", f"got {shown}", "give shares of the squared norm above 0 and below 1, each once: 0.9")


def approximate_rank(attention: torch.Tensor, tau: Sequence[float] = (0.9,)) -> torch.Tensor:
    """k* (..., len(tau)): the least k such that the k largest squared singular values sum to tau of all of them.

    `attention` is (..., T, T). Rows and columns of zeros, as padding leaves them, change nothing. Raises InputError for
    a tau outside (0, 1). Source: arXiv 2404.08634 v4, section 3.
    """
    return approximate_ranks([attention], tau)[0]


def approximate_ranks(several: Sequence[torch.Tensor], tau: Sequence[float] = (0.9,)) -> list[torch.Tensor]:
    """`approximate_rank` of each of several tensors. On a CPU this is faster than one call for each, as the cores wait
    for each other only once.
    """
    check_tau(tau)
    matrices = [attention.reshape(-1, *attention.shape[-2:]).float() for attention in several]
    threads = min(torch.get_num_threads(), os.cpu_count() or 1)
    each = -(-sum(map(len, matrices)) // threads)
    on_cpu = all(one_NTT.device.type == "cpu" for one_NTT in matrices)
    fitting = [max(1, min(_NUMBERS // max(1, one_NTT.shape[-1] ** 2), each)) for one_NTT in matrices]
    sizes = fitting if on_cpu else [len(one_NTT) for one_NTT in matrices]
    chunks = [torch.split(one_NTT, size) for one_NTT, size in zip(matrices, sizes, strict=True)]
    listed = [chunk for part in chunks for chunk in part]
    if len(listed) <= 1 or not on_cpu:
        ranks = iter([_ranks(chunk, tau) for chunk in listed])
    else:
        with _cores(threads) as pool:
            ranks = iter(list(pool.map(lambda chunk: _ranks(chunk, tau), listed)))
    return [
        torch.cat([next(ranks) for _ in part]).view(*attention.shape[:-2], len(tau))
        for attention, part in zip(several, chunks, strict=True)
    ]


@contextmanager
def _cores(threads: int) -> Iterator[Executor]:
    """A pool of threads, each of which computes on one core. Eigenvalue routines take one small matrix after the other,
    and are slower when several threads share one.
    """
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # threads that start later inherit the last setting


def _ranks(matrices_NTT: torch.Tensor, tau: Sequence[float]) -> torch.Tensor:
    count, length = len(matrices_NTT), matrices_NTT.shape[-1]
    wanted = torch.tensor(tau, dtype=torch.float64, device=matrices_NTT.device)
    near = _NEAR * length
    gram_NTT = matrices_NTT @ matrices_NTT.mT
    trace_N = gram_NTT.diagonal(dim1=-2, dim2=-1).double().sum(-1).clamp(min=torch.finfo(torch.float64).tiny)
    shares_N = (_norm(gram_NTT)[:, 0] / trace_N).square()
    ranks = torch.ones(count, len(tau), dtype=torch.long, device=matrices_NTT.device)
    open_N = shares_N < wanted.max() + near
    if length > 2 * _WIDTH:
        at = torch.nonzero(open_N & (shares_N > 1 / _SPREAD))[:, 0]
        bounds, certain = _bounded(gram_NTT[at], trace_N[at], wanted, near)
        ranks[at[certain]] = bounds[certain]
        open_N[at[certain]] = False
    at = torch.nonzero(open_N)[:, 0]
    energy = _energy(gram_NTT[at])
    ranks[at] = _first_reaching(energy, wanted - near)
    close = at[((energy[:, None] - wanted[:, None]).abs() < near).flatten(1).any(1)]
    if len(close):
        exact = matrices_NTT[close].double()
        ranks[close] = _first_reaching(_energy(exact @ exact.mT), wanted - _EXACT)
    return ranks


def _bounded(
    gram_NTT: torch.Tensor, trace_N: torch.Tensor, wanted_K: torch.Tensor, near: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """k* (N, K) by bounds on the sums of the largest eigenvalues, and for which rows (N,) the bounds agree.

    With V (T x w) orthonormal, the eigenvalues t_i of V' G V (Ritz values) sum to no more than those of G: the bound
    from below. From above: let e be the norm of G V - V V' G V, the part of G that couples V's space to the rest, and c
    a bound on the largest eigenvalue of the rest, here its norm. The i-th eigenvalue of G exceeds max(t_i, c) by no
    more than 2 e^2 / (g + sqrt(g^2 + 4 e^2)), with the gap g = max(t_i - c, 0). Source: C.-K. Li and R.-C. Li, A note
    on eigenvalues of perturbed Hermitian matrices, Linear Algebra and its Applications 395 (2005).
    """
    # any start works; this one is always the same
    start_TW = torch.randn(gram_NTT.shape[-1], _WIDTH, generator=torch.Generator().manual_seed(0))
    image_NTW = gram_NTT @ start_TW.to(gram_NTT)
    for _ in range(_STEPS):
        basis_NTW = torch.linalg.qr(image_NTW).Q
        image_NTW = gram_NTT @ basis_NTW
    inner_NWW = basis_NTW.mT @ image_NTW
    ritz_NW = torch.linalg.eigvalsh(inner_NWW).double().clamp(min=0).flip(-1)
    coupling_N1 = _norm(image_NTW - basis_NTW @ inner_NWW)
    squares_N1 = _norm(gram_NTT).square()
    # an upper bound of the rounding error of the difference of squares is added
    lost_N1 = near * squares_N1
    rest_N1 = ((squares_N1 - _norm(inner_NWW).square() - 2 * coupling_N1.square()).clamp(min=0) + lost_N1).sqrt()
    gap_NW = (ritz_NW - rest_N1).clamp(min=0)
    slope_NW = gap_NW + (gap_NW.square() + 4 * coupling_N1.square()).sqrt()
    excess_NW = 2 * coupling_N1.square() / slope_NW.clamp(min=torch.finfo(torch.float64).tiny)
    low_NW = ritz_NW.cumsum(-1) / trace_N[:, None]
    high_NW = (torch.maximum(ritz_NW, rest_N1) + excess_NW).cumsum(-1) / trace_N[:, None]
    at_most_NK = (low_NW[:, None] < (wanted_K + near)[:, None]).sum(-1) + 1
    at_least_NK = (high_NW[:, None] < (wanted_K - near)[:, None]).sum(-1) + 1
    return at_most_NK, ((at_most_NK == at_least_NK) & (at_most_NK <= _WIDTH)).all(-1)


def _norm(matrices: torch.Tensor) -> torch.Tensor:
    """Frobenius norms (N, 1) in float64."""
    norms_N: torch.Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1))
    return norms_N[:, None].double()


def _energy(gram_NTT: torch.Tensor) -> torch.Tensor:
    """The share of the trace in the 1, 2, ... T largest eigenvalues, (N, T) in float64."""
    values_NT = torch.linalg.eigvalsh(gram_NTT).double().clamp(min=0).flip(-1)
    total = values_NT.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    shares_NT: torch.Tensor = values_NT.cumsum(-1) / total
    return shares_NT


def _first_reaching(shares_NT: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How many entries of each rising row it takes to reach each of `wanted`, (N, len(wanted))."""
    most = shares_NT.shape[-1]
    return ((shares_NT[:, None] < wanted[:, None]).sum(-1) + 1).clamp(max=most)
