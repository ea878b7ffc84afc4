"""Which candidates become validation and training text: decided on their indexes alone, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.corpus.building.drawing import KEYS, Gate, Share, budgets
from inheritune.corpus.building.tokenising import TokenPart, load_index
from inheritune.recipe import Data

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOT_ADMITTED = 255  # in the place of a filter's number
_IN_MEMORY = 2_000_000  # rows that are sorted at once
_AS_OBJECTS = 10_000  # rows that are Python objects at once, which take five times the memory


@dataclass(frozen=True)
class Piece:
    """Tokens of a document: where they stand, and whose they are."""

    part: int
    start: int
    tokens: int
    source: int
    digest: bytes = b""


class Candidates:
    """The indexes of all parts, as one gate and the filters leave them."""

    def __init__(
        self, parts: Sequence[TokenPart], gate: Gate, removed: "Sequence[NDArray[np.uint8]] | None" = None
    ) -> None:
        """`removed`: for each part the number of the filter that removed a document (0: none), shape (documents,)."""
        self.parts, self.gate, self.removed = list(parts), gate, removed

    def index(self, part: int) -> "NDArray[Any]":
        """The rows of a part; `removed` says which filter removed a document, or that the gate does not admit it."""
        rows = load_index(self.parts[part].index)
        if self.removed is not None:
            rows["removed"] = np.where(rows["removed"] > 0, rows["removed"], self.removed[part])
        gate = self.gate
        admitted = open_rows(rows, gate.validation, "validation_key") | open_rows(rows, gate.training, "training_key")
        rows["removed"][~admitted] = NOT_ADMITTED
        return rows

    def __len__(self) -> int:
        return len(self.parts)

    def of_validation(self) -> "Candidates":
        """Those alone that are open to validation."""
        gate = Gate(self.gate.validation, tuple(Share() for _ in self.gate.training))
        return Candidates(self.parts, gate, self.removed)

    def ranks(self, index: "NDArray[Any]") -> "tuple[NDArray[Any], ...]":
        """Columns by whose order the first of equal documents is the one that stays.

        Validation comes first and its order decides, so that it is the same whatever else is admitted, and wherever
        in the text a document stands.
        """
        closed = ~open_rows(index, self.gate.validation, "validation_key")
        return closed.astype("<u8"), index["validation_key"], index["source"].astype("<u8")

    def in_order(self, key: str, wanted: "Callable[[NDArray[Any]], NDArray[np.bool_]]") -> "Iterator[Piece]":
        """The kept documents that are `wanted`, by their `key`; a bounded number of rows is in memory.

        Equal keys are equal texts (but for a hash's chance), so their order, by source, decides nothing but whose
        the text is.
        """
        total = sum(len(load_index(part.index)) for part in self.parts)
        slices = max(1, -(-total // _IN_MEMORY))
        for number in range(slices):
            low, high = (int(KEYS * (number + k) / slices) for k in (0, 1))
            rows = [self._rows(part, key, low, high, wanted) for part in range(len(self.parts))]
            found = np.concatenate(rows) if rows else np.zeros(0, _PLACED)
            found = found[np.lexsort((found["part"], found["source"], found[key]))]
            for start in range(0, len(found), _AS_OBJECTS):
                some = found[start : start + _AS_OBJECTS]
                columns = (some[name].tolist() for name in ("part", "start", "tokens", "source"))
                yield from map(Piece, *columns, map(bytes, some["digest"]))

    def _rows(
        self, part: int, key: str, low: int, high: int, wanted: "Callable[[NDArray[Any]], NDArray[np.bool_]]"
    ) -> "NDArray[Any]":
        rows, written = self.index(part), load_index(self.parts[part].index)
        starts = np.cumsum(np.where(written["removed"] == 0, rows["tokens"], 0)) - rows["tokens"]
        mask = (rows["removed"] == 0) & wanted(rows) & (rows[key] >= np.uint64(low))
        if high < KEYS:
            mask &= rows[key] < np.uint64(high)
        found = np.zeros(int(mask.sum()), _PLACED)
        for name in _PLACED.names or ():
            found[name] = part if name == "part" else starts[mask] if name == "start" else rows[name][mask]
        return found


_PLACED = np.dtype(
    [
        ("validation_key", "<u8"), ("training_key", "<u8"), ("digest", "<u8", (2,)), ("tokens", "<u4"),
        ("source", "<u2"), ("part", "<u4"), ("start", "<u8"),
    ]
)  # fmt: skip


def open_rows(rows: "NDArray[Any]", shares: Sequence[Share], key: str) -> "NDArray[np.bool_]":
    """Which rows the shares of their sources are open to, shape (documents,), as `Gate.admits` asks of one."""
    characters = np.array([share.characters for share in shares], np.int64)[rows["source"]]
    last = np.array([max(share.keys - 1, 0) for share in shares], np.uint64)[rows["source"]]
    some = np.array([share.keys > 0 for share in shares])[rows["source"]]
    below = some & (rows[key] <= last)
    found: NDArray[np.bool_] = np.where(rows["position"] >= 0, rows["position"] < characters, below)
    return found


def choose_validation(candidates: Candidates, wanted: int) -> tuple[list[Piece], set[bytes]]:
    """Whole documents, each text once, by their validation key, until at least `wanted` tokens; and their digests."""
    pieces: list[Piece] = []
    taken: set[bytes] = set()
    have = 0
    shares = candidates.gate.validation
    for piece in candidates.in_order("validation_key", lambda rows: open_rows(rows, shares, "validation_key")):
        if piece.digest not in taken:
            taken.add(piece.digest)
            pieces.append(piece)
            have += piece.tokens
            if have >= wanted:
                break
    return pieces, taken


def drawn(candidates: Candidates, taken: set[bytes], source: int | None = None) -> Iterator[Piece]:
    """The documents open to training, of one source or of all, in the order drawn; validation's texts left out."""
    is_open = _open_to_training(candidates.gate, taken)
    return candidates.in_order(
        "training_key", lambda rows: is_open(rows) & (True if source is None else rows["source"] == source)
    )


def available(candidates: Candidates, taken: set[bytes], sources: int) -> list[int]:
    """The tokens of each source that are open to training."""
    is_open = _open_to_training(candidates.gate, taken)
    found = np.zeros(sources, np.int64)
    for part in range(len(candidates)):
        rows = candidates.index(part)
        rows = rows[(rows["removed"] == 0) & is_open(rows)]
        np.add.at(found, rows["source"], rows["tokens"].astype(np.int64))
    return [int(n) for n in found]


def _open_to_training(gate: Gate, taken: set[bytes]) -> "Callable[[NDArray[Any]], NDArray[np.bool_]]":
    is_taken = among(taken)
    return lambda rows: open_rows(rows, gate.training, "training_key") & ~is_taken(rows)


def among(taken: set[bytes]) -> "Callable[[NDArray[Any]], NDArray[np.bool_]]":
    """Of rows those whose text is one of `taken`, given as digests."""
    digests = np.frombuffer(b"".join(taken), "<u8").reshape(-1, 2)
    digests = digests[np.argsort(digests[:, 0])]

    def is_taken(rows: "NDArray[Any]") -> "NDArray[np.bool_]":
        if not len(digests):
            return np.zeros(len(rows), bool)
        at = np.minimum(np.searchsorted(digests[:, 0], rows["digest"][:, 0]), len(digests) - 1)
        found: NDArray[np.bool_] = (digests[at] == rows["digest"]).all(axis=1)
        return found

    return is_taken


def training_pieces(data: Data, candidates: Candidates, taken: set[bytes]) -> Iterator[Piece]:
    """The training text: each source's share in turn where sources have weights, else one draw from all."""
    asked = budgets(data)
    if data.size is None or None in asked:
        limits = [None if source.limit is None else source.limit.count for source in data.sources]
        yield from cut(drawn(candidates, taken), None if data.size is None else data.size.count, limits)
        return
    for source, budget in enumerate(asked):
        yield from cut(drawn(candidates, taken, source), budget, [None] * len(asked))


def cut(pieces: Iterable[Piece], budget: int | None, limits: Sequence[int | None]) -> Iterator[Piece]:
    """Pieces until `budget` tokens, of each source at most its limit; the piece that reaches one is cut there."""
    have = 0
    of: dict[int, int] = {}
    for piece in pieces:
        room = piece.tokens
        limit = limits[piece.source]
        if limit is not None:
            room = min(room, limit - of.get(piece.source, 0))
        if budget is not None:
            room = min(room, budget - have)
        if room > 0:
            have += room
            of[piece.source] = of.get(piece.source, 0) + room
            yield piece if room == piece.tokens else replace(piece, tokens=room)
        if budget is not None and have >= budget:
            return


def duplicates(candidates: Candidates, mark: int) -> "list[NDArray[np.uint8]]":
    """For each part, `mark` for every document whose text another one has that stays (`Candidates.ranks`), else 0."""
    found = [np.zeros(len(candidates.index(part)), np.uint8) for part in range(len(candidates))]
    total = sum(len(marks) for marks in found)
    slices = max(1, -(-total // _IN_MEMORY))
    for number in range(slices):
        rows = []
        for part in range(len(candidates)):
            index = candidates.index(part)
            at = np.flatnonzero((index["removed"] == 0) & (index["digest"][:, 0] % np.uint64(slices) == number))
            rows.append(
                np.stack(
                    [
                        index["digest"][at, 0], index["digest"][at, 1], *candidates.ranks(index[at]),
                        np.full(len(at), part, "<u8"), at.astype("<u8"),
                    ]
                )
            )  # fmt: skip
        table = np.concatenate(rows, axis=1) if rows else np.zeros((7, 0), "<u8")
        table = table[:, np.lexsort(table[::-1])]
        again = np.flatnonzero((table[0, 1:] == table[0, :-1]) & (table[1, 1:] == table[1, :-1])) + 1
        for part, row in table[-2:, again].T:
            found[int(part)][int(row)] = mark
    return found


def joined(one: "Sequence[NDArray[np.uint8]] | None", two: "Sequence[NDArray[np.uint8]]") -> "list[NDArray[np.uint8]]":
    """Marks of both; the first one's where a document has two."""
    return list(two) if one is None else [np.where(a > 0, a, b) for a, b in zip(one, two, strict=True)]


def filter_counts(candidates: Candidates, filters: int) -> "NDArray[np.int64]":
    """Documents and tokens that each filter removed, shape (filters + 1, 2); row 0 is what was kept."""
    found = np.zeros((filters + 1, 2), np.int64)
    for part in range(len(candidates)):
        rows = candidates.index(part)
        rows = rows[rows["removed"] != NOT_ADMITTED]
        np.add.at(found[:, 0], rows["removed"], 1)
        np.add.at(found[:, 1], rows["removed"], rows["tokens"].astype(np.int64))
    return found
