"""Which documents become validation, how much each gives, and which of them come from one file."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from inheritune.corpus.building.drawing import BYTES_PER_TOKEN, KEYS
from inheritune.corpus.building.selection import Candidates, Piece
from inheritune.data import FEW_DOCUMENTS
from inheritune.recipe import Data, Size

DOCUMENTS = FEW_DOCUMENTS
"""A document gives at most one part in so many of the validation tokens, where the text has enough documents."""
_WITHHELD = 10  # for the sake of many documents, training loses at most about one part in so many of all text


class Needed:
    """Says which documents validation needs, asked for one after the other in the order of their keys.

    They are needed until they have `wanted` tokens, where each counts for at most `cap`. Once their whole texts have
    `wanted` tokens, a document is needed only within the first tenth of all text. This tenth has two limits: a tenth of
    the keys, as filters may leave little text, and `most` tokens, as the near-duplicates that are kept have small keys.
    There is no limit where `most` is None, as nobody knows how much text there is.
    """

    def __init__(self, wanted: int, most: int | None, documents: int = DOCUMENTS) -> None:
        self.wanted, self.most = wanted, most
        self.cap = max(2, -(-wanted // documents))  # one token of text and the end-of-text token at least
        self.counted = 0
        """Tokens so far, each document up to the cap; `wanted` where no further document is needed."""
        self._whole = 0

    def takes(self, key: int, tokens: int) -> bool:
        """Whether the document with this key is needed; its tokens are counted then."""
        beyond = self.most is not None and (key >= KEYS // _WITHHELD or self._whole + tokens > self.most)
        if beyond and self._whole >= self.wanted:
            self.counted = self.wanted
        if self.counted >= self.wanted:
            return False
        self._whole += tokens
        self.counted += min(tokens, self.cap)
        return True


@dataclass(frozen=True)
class Validation:
    """The pieces of validation, the digests of the whole texts, `Needed.counted` of them, and where they come from.

    `origins` has `origin` and `offset` of the index for each piece.
    """

    pieces: list[Piece]
    taken: set[bytes]
    counted: int
    origins: list[tuple[int, int]]


def most_withheld(characters: int) -> int:
    """A tenth of all text, in tokens."""
    return characters // (BYTES_PER_TOKEN * _WITHHELD)


def choose_validation(candidates: Candidates, wanted: int, most: int | None, whole: bool = False) -> Validation:
    """The documents that validation needs (`Needed`), each text once, in the order of their validation keys.

    Of documents longer than a level only the beginning is taken, unless they are to be `whole`. The level is the cap,
    or the lowest above it at which all together have `wanted` tokens.
    """
    needed, pieces, taken, origins = Needed(wanted, most), list[Piece](), set[bytes](), list[tuple[int, int]]()
    rows = candidates.rows_in_order("validation_key", candidates.for_validation)
    for row in itertools.chain.from_iterable(rows):
        digest, piece = row["digest"].tobytes(), Piece(*(int(row[field.name]) for field in fields(Piece)))
        if digest in taken:
            continue
        if not needed.takes(int(row["validation_key"]), piece.tokens):
            break
        taken.add(digest)
        pieces.append(piece)
        origins.append((int(row["origin"]), int(row["offset"])))
    level = _level([piece.tokens for piece in pieces], wanted, needed.cap)
    cut = [replace(piece, tokens=level) if piece.tokens > level and not whole else piece for piece in pieces]
    return Validation(cut, taken, needed.counted, origins)


def _level(sizes: Sequence[int], wanted: int, least: int) -> int:
    """The lowest level, at least `least`, at which documents that are cut there have `wanted` tokens together."""
    rest = wanted
    for number, tokens in enumerate(sorted(sizes)):
        longer = len(sizes) - number
        if tokens * longer >= rest:
            return max(least, -(-rest // longer))
        rest -= tokens
    return max([least, *sizes])


def origins_of(data: Data, validation: Validation) -> list[tuple[int, int]] | None:
    """For each document of validation the number of its origin, and its place there in characters.

    Documents that were cut from one file have one origin, every other one has its own. Origins are numbered as they
    come. None where no source is cut into documents of a size.
    """
    if not any(isinstance(source.document, Size) for source in data.sources):
        return None
    numbers: dict[tuple[bool, int], int] = {}
    origins = []
    for number, (file, offset) in enumerate(validation.origins):
        cut_out = offset >= 0
        origin = numbers.setdefault((cut_out, file if cut_out else number), len(numbers))
        origins.append((origin, max(offset, 0)))
    return origins
