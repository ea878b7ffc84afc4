"""Which candidates become validation and training text, decided by their index rows alone, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from inheritune.corpus.building.drawing import KEYS, Threshold, Thresholds, budgets, limits_of
from inheritune.corpus.building.tokenising import TokenPart
from inheritune.data import Array
from inheritune.recipe import Data

NOT_ADMITTED = 255  # in place of a filter's number
_IN_MEMORY = 2_000_000  # rows that are sorted at once
_AS_OBJECTS = 10_000  # rows that are Python objects at once, which need five times the memory
_PLACED = np.dtype(
    [
        ("validation_key", "<u8"), ("training_key", "<u8"), ("digest", "<u8", (2,)), ("tokens", "<u4"),
        ("source", "<u2"), ("part", "<u4"), ("start", "<u8"), ("origin", "<u8"), ("offset", "<i8"),
    ]
)  # fmt: skip
Rows = Callable[[Array], Array]
"""From index rows (documents,) to booleans of the same shape."""


@dataclass(frozen=True)
class Piece:
    """Tokens of a document: their part, their place in it, and their source."""

    part: int
    start: int
    tokens: int
    source: int


class Candidates:
    """The index rows of all parts, after thresholds and filters."""

    def __init__(
        self, parts: Sequence[TokenPart], thresholds: Thresholds, removed: Sequence[Array] | None = None
    ) -> None:
        """`removed`: for each part the number of the filter that removed a document (0: none), shape (documents,)."""
        self.parts, self.thresholds, self.removed = list(parts), thresholds, removed

    def index(self, part: int) -> Array:
        """The rows of a part; `removed` has the filter that removed a document, or NOT_ADMITTED."""
        rows = self.parts[part].load_index()
        if self.removed is not None:
            rows["removed"] = np.where(rows["removed"] > 0, rows["removed"], self.removed[part])
        admitted = self.for_validation(rows) | below(rows, self.thresholds.training, "training_key")
        rows["removed"][~admitted] = NOT_ADMITTED
        return rows

    def __iter__(self) -> Iterator[Array]:
        """The rows of each part."""
        return map(self.index, range(len(self.parts)))

    def for_validation(self, rows: Array) -> Array:
        """Which rows may become validation, shape (documents,)."""
        return below(rows, self.thresholds.validation, "validation_key")

    def for_training(self, taken: set[bytes]) -> Rows:
        """Which rows may become training text; `taken` are the digests of validation's texts."""
        is_taken = among(taken)
        return lambda rows: below(rows, self.thresholds.training, "training_key") & ~is_taken(rows)

    def of_validation(self) -> "Candidates":
        """The candidates that may become validation."""
        thresholds = replace(self.thresholds, training=tuple(Threshold() for _ in self.thresholds.training))
        return Candidates(self.parts, thresholds, self.removed)

    def marked(self, marks: Sequence[Array]) -> "Candidates":
        """The candidates with more marks of removed documents; the first mark of a document counts."""
        if self.removed is not None:
            marks = [np.where(before > 0, before, now) for before, now in zip(self.removed, marks, strict=True)]
        return Candidates(self.parts, self.thresholds, marks)

    def ranks(self, rows: Array) -> tuple[Array, ...]:
        """Columns whose order decides which of equal documents is kept.

        Those that may become validation come first, in its order. So validation depends neither on what else is
        admitted nor on the places of documents.
        """
        return (~self.for_validation(rows)).astype("<u8"), rows["validation_key"], rows["source"].astype("<u8")

    def in_order(self, key: str, wanted: Rows) -> Iterator[Piece]:
        """The kept documents that are `wanted`, in the order of `key`."""
        for rows in self.rows_in_order(key, wanted):
            yield from map(Piece, *(rows[field.name].tolist() for field in fields(Piece)))

    def rows_in_order(self, key: str, wanted: Rows) -> Iterator[Array]:
        """The rows of the kept documents that are `wanted`, in the order of `key`; a bounded number is in memory.

        Equal keys are equal texts, except for collisions. Their order, by source, decides which source the text
        counts for.
        """
        total = sum(len(part.load_index()) for part in self.parts)
        slices = max(1, -(-total // _IN_MEMORY))
        for number in range(slices):
            low, high = (int(KEYS * (number + k) / slices) for k in (0, 1))
            rows = [
                np.zeros(0, _PLACED),
                *(self._rows(part, key, low, high, wanted) for part in range(len(self.parts))),
            ]
            placed = np.concatenate(rows)
            placed = placed[np.lexsort((placed["part"], placed["source"], placed[key]))]
            for start in range(0, len(placed), _AS_OBJECTS):
                yield placed[start : start + _AS_OBJECTS]

    def _rows(self, part: int, key: str, low: int, high: int, wanted: Rows) -> Array:
        rows, written = self.index(part), self.parts[part].load_index()
        starts = np.cumsum(np.where(written["removed"] == 0, rows["tokens"], 0)) - rows["tokens"]
        mask = (rows["removed"] == 0) & wanted(rows) & (rows[key] >= np.uint64(low))
        if high < KEYS:
            mask &= rows[key] < np.uint64(high)
        placed = np.zeros(int(mask.sum()), _PLACED)
        for name in _PLACED.names or ():
            placed[name] = part if name == "part" else starts[mask] if name == "start" else rows[name][mask]
        return placed


def below(rows: Array, thresholds: Sequence[Threshold], key: str) -> Array:
    """Which rows the thresholds of their sources admit, shape (documents,); as `Thresholds.admits` for one document."""
    characters = np.array([threshold.characters for threshold in thresholds], np.int64)[rows["source"]]
    last = np.array([max(threshold.keys - 1, 0) for threshold in thresholds], np.uint64)[rows["source"]]
    some = np.array([threshold.keys > 0 for threshold in thresholds])[rows["source"]]
    admitted: Array = np.where(rows["position"] >= 0, rows["position"] < characters, some & (rows[key] <= last))
    return admitted


def among(taken: set[bytes]) -> Rows:
    """Which rows have a text whose digest is in `taken`."""
    digests = np.frombuffer(b"".join(taken), "<u8").reshape(-1, 2)
    digests = digests[np.argsort(digests[:, 0])]

    def is_taken(rows: Array) -> Array:
        if not len(digests):
            return np.zeros(len(rows), bool)
        at = np.minimum(np.searchsorted(digests[:, 0], rows["digest"][:, 0]), len(digests) - 1)
        equal: Array = (digests[at] == rows["digest"]).all(axis=1)
        return equal

    return is_taken


def available(candidates: Candidates, taken: set[bytes], sources: int) -> list[int]:
    """The tokens of each source that may become training text."""
    wanted, tokens = candidates.for_training(taken), np.zeros(sources, np.int64)
    for rows in candidates:
        chosen = rows[(rows["removed"] == 0) & wanted(rows)]
        np.add.at(tokens, chosen["source"], chosen["tokens"].astype(np.int64))
    return [int(n) for n in tokens]


def training_pieces(data: Data, candidates: Candidates, taken: set[bytes]) -> Iterator[Piece]:
    """The training text without `taken`: with weights the share of each source in turn, else one draw from all."""
    asked, wanted, whole = budgets(data), candidates.for_training(taken), data.has_conversations
    if data.size is None or None in asked:
        pieces = candidates.in_order("training_key", wanted)
        yield from cut(pieces, None if data.size is None else data.size.count, limits_of(data), whole)
        return
    for source, budget in enumerate(asked):

        def of_source(rows: Array, source: int = source) -> Array:
            mine: Array = wanted(rows) & (rows["source"] == source)
            return mine

        yield from cut(candidates.in_order("training_key", of_source), budget, [None] * len(asked), whole)


def cut(
    pieces: Iterable[Piece], budget: int | None, limits: Sequence[int | None], whole: bool = False
) -> Iterator[Piece]:
    """Pieces up to `budget` tokens, and up to the limit of each source; the piece that reaches one of them is cut.

    With `whole` none is cut: the one that reaches the budget is the last, those that exceed a limit are left out.
    """
    have = 0
    of: dict[int, int] = {}
    for piece in pieces:
        room = piece.tokens
        limit = limits[piece.source]
        if limit is not None:
            room = min(room, limit - of.get(piece.source, 0))
        if whole and room < piece.tokens:
            continue
        if budget is not None and not whole:
            room = min(room, budget - have)
        if room > 0:
            have += room
            of[piece.source] = of.get(piece.source, 0) + room
            yield piece if room == piece.tokens else replace(piece, tokens=room)
        if budget is not None and have >= budget:
            return


def filter_counts(candidates: Candidates, filters: int) -> Array:
    """The documents and tokens that each filter removed, shape (filters + 1, 2); row 0 has those that were kept."""
    counts = np.zeros((filters + 1, 2), np.int64)
    for rows in candidates:
        admitted = rows[rows["removed"] != NOT_ADMITTED]
        np.add.at(counts[:, 0], admitted["removed"], 1)
        np.add.at(counts[:, 1], admitted["removed"], admitted["tokens"].astype(np.int64))
    return counts
