"""What looking at a model costs: `analyze` by its parts, and ranks by eigenvalues beside singular values.

    python benchmarks/analysis.py MODEL TEXT [--sequences 100] [--length 100] [--rounds 3]

The rank step's alternatives see the same attention matrices, in turns: ours, on as many blocks' together as `analyze`
takes, and a batched torch.linalg.svdvals of each block's, with the same threads. The model's attention is captured
once, outside the timing.
"""

import argparse
import statistics
import time

import torch

from inheritune.analysis import analyze, approximate_ranks, attention_seen, eager_attention
from inheritune.analysis.forward_statistics import TOGETHER
from inheritune.arch import load_model, load_tokenizer
from inheritune.corpus import sample_text
from inheritune.recipe import Reference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--sequences", type=int, default=100)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--rank-sequences", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    ranks(given)
    analysis = analyze(given.model, text=given.text, sequences=given.sequences, sequence_length=given.length)
    seconds = analysis.models[0].seconds
    print(f"analyze, {given.sequences} sequences of {given.length}: ", end="")
    print(", ".join(f"{part} {value:.1f} s" for part, value in seconds.items()), end="")
    print(f"; after loading {sum(seconds.values()) - seconds['load']:.1f} s")


def ranks(given: argparse.Namespace) -> None:
    """Time the rank step on the attention of some sequences, in the micro-batches of `analyze`."""
    origin = Reference(path=given.model)
    model = load_model(origin).float()
    rows = sample_text(given.text, load_tokenizer(origin), given.rank_sequences, given.length)
    seen: list[torch.Tensor] = []
    with torch.no_grad(), eager_attention(model), attention_seen(model, lambda block, weights: seen.append(weights)):
        for part in torch.split(rows[:, :-1], 8):
            model.base_model(input_ids=part, use_cache=False)
    ours, theirs, ratios = [], [], []
    for turn in range(given.rounds):
        times = {}
        for way in (by_eigenvalues, by_singular_values) if turn % 2 == 0 else (by_singular_values, by_eigenvalues):
            began = time.perf_counter()
            found = torch.cat([ranks.flatten() for ranks in way(seen)])
            times[way.__name__] = time.perf_counter() - began, found
        (mine, first), (other, second) = times["by_eigenvalues"], times["by_singular_values"]
        ours.append(mine)
        theirs.append(other)
        ratios.append(other / mine)
        same = bool((first == second).all())
    matrices = sum(weights.shape[0] * weights.shape[1] for weights in seen)
    print(
        f"ranks of {matrices:,} matrices: {statistics.median(ours):.2f} s, svdvals {statistics.median(theirs):.2f} s,"
        f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), same k* {same}"
    )


def by_eigenvalues(seen: list[torch.Tensor]) -> list[torch.Tensor]:
    found, waiting = [], []
    for weights in seen:
        if sum(one.numel() for one in waiting) + weights.numel() > TOGETHER:
            found += approximate_ranks(waiting)
            waiting = []
        waiting.append(weights)
    return found + approximate_ranks(waiting)


def by_singular_values(seen: list[torch.Tensor]) -> list[torch.Tensor]:
    found = []
    for weights in seen:
        energy = torch.linalg.svdvals(weights).double().square()
        shares = energy.cumsum(-1) / energy.sum(-1, keepdim=True)
        found.append((shares < 0.9 - 1e-9).sum(-1) + 1)
    return found


if __name__ == "__main__":
    main()
