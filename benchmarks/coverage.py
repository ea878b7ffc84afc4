"""How often the errors of validation losses hold: simulated texts whose documents are alike inside.

    python benchmarks/coverage.py

Each row is a kind of text. A token's loss is the sum of what its document has in common, of a topic that drifts along
the text, and of noise of its own. The columns have the share of simulated texts for which the upper bound (one-sided,
95 %) and the two-sided interval (95 %) hold the true mean, by the clusters that inheritune makes, and
the two-sided one if sequences were independent of each other, as other tools have it.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from inheritune.data import Packing, Sequences, clusters_of
from inheritune.evaluation import Estimate, loss_of, mean

END, LENGTH = 0, 128
Floats = NDArray[np.float64]
ROWS = [
    # documents, sizes, effects, tokens over which a topic drifts (0: none)
    *((count, "equal", "normal", 0) for count in (5, 10, 20, 30, 50, 100, 200)),
    *((count, "unequal", "normal", 0) for count in (5, 10, 20, 30, 50, 100, 200)),
    *((count, "equal", "skewed", 0) for count in (5, 10, 20, 30, 50, 100, 200)),
    (1, "equal", "none", 500), (1, "equal", "none", 2000), (3, "equal", "none", 500), (3, "equal", "normal", 0),
]  # fmt: skip


def sizes_of(count: int, kind: str, total: int, random: np.random.Generator) -> NDArray[np.int64]:
    """The tokens of each document; unequal ones are lognormal, none above a twentieth of the text where possible."""
    shares = np.ones(count) if kind == "equal" else np.exp(random.normal(size=count))
    for _ in range(50):
        shares = np.minimum(shares / shares.sum(), max(1 / 20, 1 / count))
    return np.maximum(2, np.round(shares / shares.sum() * total)).astype(np.int64)


def effects_of(count: int, kind: str, random: np.random.Generator) -> Floats:
    """What all tokens of a document have in common, in nats; its expected value is 0."""
    if kind == "none":
        return np.zeros(count)
    drawn = random.normal(size=count) if kind == "normal" else random.exponential(size=count) - 1
    return np.asarray(0.3 * drawn)


def drift(size: int, length: int, random: np.random.Generator) -> Floats:
    """A topic that changes slowly: an autoregressive process over blocks of 16 tokens with this correlation length."""
    if not length:
        return np.zeros(size)
    blocks, keep = -(-size // 16), np.exp(-16 / length)
    steps = random.normal(size=blocks) * np.sqrt(1 - keep**2)
    steps[0] = random.normal()
    values = np.empty(blocks)
    values[0] = steps[0]
    for at in range(1, blocks):
        values[at] = keep * values[at - 1] + steps[at]
    return np.asarray(0.3 * np.repeat(values, 16)[:size])


def covers(estimate: Estimate) -> tuple[bool, bool]:
    """Whether the upper bound and the two-sided interval hold the true mean, which is 0."""
    assert estimate.upper is not None
    assert estimate.interval is not None
    low, high = estimate.interval
    return estimate.upper >= 0, low <= 0 <= high


def simulate(row: tuple[int, str, str, int], repeats: int, total: int, seed: int) -> list[float]:
    """The three shares of a row."""
    count, kind, effect, length = row
    random = np.random.default_rng([seed, count, length])
    held = np.zeros(3)
    for repeat in range(repeats):
        if repeat % 20 == 0:  # new documents
            sizes = sizes_of(count, kind, total, random)
            stream = np.ones(int(sizes.sum()) + 1, np.int64)
            stream[np.cumsum(sizes)] = END
            sequences = Sequences(stream, LENGTH, "text", packing=Packing(end_of_text=END))
            clusters = clusters_of(sequences)
            rows = sequences.rows(range(sequences.count)).predicted
            ids = clusters.of(range(len(rows)), rows).ravel()
            documents = np.repeat(np.arange(count), sizes)[: rows.size]
        losses = effects_of(count, effect, random)[documents] + drift(rows.size, length, random)
        losses = losses + random.normal(size=rows.size) * 2
        by_cluster = np.bincount(ids, losses) / np.asarray(clusters.tokens)
        plain = mean(losses.reshape(rows.shape).mean(axis=1).tolist())
        held += [*covers(loss_of(by_cluster.tolist(), clusters.tokens)), covers(plain)[1]]
    return (held / repeats).tolist()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000, help="simulated texts of each row")
    parser.add_argument("--tokens", type=int, default=38_400, help="of each text")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print("| documents | sizes | effects | topics of | upper bound | two-sided | two-sided by sequences |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in ROWS:
        upper, both, plain = simulate(row, given.repeats, given.tokens, given.seed)
        topics = f"{row[3]} tokens" if row[3] else ""
        print(f"| {row[0]} | {row[1]} | {row[2]} | {topics} | {upper:.1%} | {both:.1%} | {plain:.1%} |", flush=True)
    random = np.random.default_rng(given.seed)
    for seeds in (2, 3, 5):
        drawn = [mean(random.normal(size=seeds).tolist()) for _ in range(given.repeats)]
        held = [abs(one.value) <= (one.margin or 0) for one in drawn]
        print(f"\n{seeds} seeds: the interval over seeds holds the true mean in {np.mean(held):.1%}", flush=True)


if __name__ == "__main__":
    main()
