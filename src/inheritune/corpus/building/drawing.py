"""Drawing documents: each text has two hashes as its keys, and thresholds decide which keys are admitted.

Validation takes the documents with the smallest hashes of their text, training those with the smallest hashes keyed
with the seed. So the draw depends neither on the place of a document nor on how the work is split into tasks, and a
small budget needs only the documents below a threshold, which is raised where it admits too few.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from inheritune.errors import InputError
from inheritune.recipe import Data, Size

KEYS = 2**64  # keys are drawn from range(KEYS)
BYTES_PER_TOKEN = 6  # of text; a high estimate, as the first reading should be enough
_WIDEN = 1.3  # what is missing is an estimate
_VALIDATION_MARGIN = 4  # the mean length of so few documents varies much


@dataclass(frozen=True)
class Threshold:
    """What may be taken of a source: documents whose key is below `keys`, or the first `characters` of a stream."""

    keys: int = 0
    characters: int = 0

    def joined(self, other: "Threshold") -> "Threshold":
        """The lowest threshold that admits what either does."""
        return Threshold(max(self.keys, other.keys), max(self.characters, other.characters))


@dataclass(frozen=True)
class Thresholds:
    """Which documents of each source may be drawn for validation, and which for training."""

    validation: tuple[Threshold, ...]
    training: tuple[Threshold, ...]

    def of(self, source: int) -> tuple[Threshold, Threshold]:
        """The two thresholds of one source."""
        return self.validation[source], self.training[source]

    def characters(self, source: int) -> int:
        """How many characters of a stream may be drawn."""
        return max(threshold.characters for threshold in self.of(source))

    def covers(self, other: "Thresholds") -> bool:
        """Whether every document that `other` admits is admitted here."""
        both = self.joined(other)
        return all(self._admitted(source) == both._admitted(source) for source in range(len(self.validation)))

    def _admitted(self, source: int) -> tuple[tuple[int, ...], int]:
        """What decides which documents of a source are admitted; one threshold without bound is enough."""
        keys = tuple(threshold.keys for threshold in self.of(source))
        return (KEYS,) if KEYS in keys else keys, self.characters(source)

    def joined(self, other: "Thresholds") -> "Thresholds":
        """The lowest thresholds that cover both."""
        return Thresholds(
            tuple(map(Threshold.joined, self.validation, other.validation)),
            tuple(map(Threshold.joined, self.training, other.training)),
        )

    def admits(self, source: int, keys: tuple[int, int], position: int | None) -> bool:
        """Whether a document with these keys (validation's, training's) may be drawn for either.

        `position` is the number of characters before it in a stream, None for a document of a file.
        """
        if position is not None:
            return position < self.characters(source)
        return keys[0] < self.validation[source].keys or keys[1] < self.training[source].keys


def text_digest(text: str) -> bytes:
    """16 bytes that identify a text."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def document_keys(digest: bytes, seed: int) -> tuple[int, int]:
    """The validation key and the training key of a text with this digest."""
    drawn = hashlib.blake2b(digest, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(drawn, "big")


def limits_of(data: Data) -> list[int | None]:
    """The most training tokens of each source; None without a limit."""
    return [None if source.limit is None else source.limit.count for source in data.sources]


def budgets(data: Data) -> list[int | None]:
    """The exact training tokens of each source, by weights; None for one draw from all sources, or for everything.

    What a source cannot give because of its limit is divided among the others by their weights.
    """
    weights, limits = [source.weight for source in data.sources], limits_of(data)
    if data.size is None or None in weights:
        return [limit if data.size is None else None for limit in limits]
    fixed: dict[int, int] = {}
    rest = data.size.count
    while len(fixed) < len(weights):
        free = {n: float(weight or 0) for n, weight in enumerate(weights) if n not in fixed}
        total = sum(free.values())
        shares = {n: round(rest * weight / total) for n, weight in free.items()}
        shares[max(free)] += rest - sum(shares.values())  # the rounding
        capped = {n: limit for n, share in shares.items() if (limit := limits[n]) is not None and share > limit}
        fixed |= capped or shares
        rest -= sum(capped.values())
    return [fixed[n] for n in range(len(weights))]


def first_thresholds(data: Data, sizes: Sequence[int | None], least: int = 0) -> Thresholds:
    """Thresholds that should be enough, by the sizes of the sources; without bound where half or more is needed.

    `sizes` are the approximate bytes of text of each source; None for a stream, whose size is unknown. At least about
    `least` bytes of text are admitted, where there are so many.
    """
    files = sum(size or 0 for size in sizes)
    validation = data.validation.count * BYTES_PER_TOKEN * _VALIDATION_MARGIN
    training = []
    for wanted, size in zip(budgets(data), sizes, strict=True):
        if wanted is None and data.size is None:
            training.append(_threshold(size, 1.0, 2**62))
            continue
        # Without weights it is one draw from all sources, so the same fraction of each.
        needed = (data.size.count if wanted is None and data.size else wanted or 0) * BYTES_PER_TOKEN
        needed = max(needed, least)
        of = files if wanted is None else size or 0
        training.append(_threshold(size, needed / of if of else 1.0, needed + validation))
    fraction = validation / files if files else 1.0
    return Thresholds(tuple(_threshold(size, fraction, validation) for size in sizes), tuple(training))


def _threshold(size: int | None, fraction: float, characters: int) -> Threshold:
    if size is None:
        return Threshold(0, characters)
    return Threshold(KEYS if fraction >= 0.5 else max(1, int(KEYS * fraction)), 0)


@dataclass(frozen=True)
class Supply:
    """What the thresholds admitted: the tokens of validation, and those of training by source.

    `counted` has validation's tokens too, but of each document no more than a cap; too few of these mean that more
    documents are read.
    `ends` has the characters of each stream that was read to its end, None for the others and for files.
    """

    validation: int
    counted: int
    training: tuple[int, ...]
    ends: tuple[int | None, ...]

    def usable(self, data: Data) -> int:
        """The training tokens, up to the limit of each source."""
        pairs = zip(self.training, limits_of(data), strict=True)
        return sum(tokens if limit is None else min(tokens, limit) for tokens, limit in pairs)


def raised(data: Data, thresholds: Thresholds, supply: Supply) -> Thresholds | None:
    """Higher thresholds where these admitted too little; None where it is enough, or where they admit everything."""
    lacking = [data.validation.count / max(0.5, supply.counted)] * len(data.sources)
    validation = _raised(thresholds.validation, lacking, supply.ends)
    asked = budgets(data)
    if data.size is not None and None in asked:
        lacking = [data.size.count / max(0.5, supply.usable(data))] * len(asked)
    else:
        lacking = [(wanted or 0) / max(0.5, have) for wanted, have in zip(asked, supply.training, strict=True)]
    higher = Thresholds(validation, _raised(thresholds.training, lacking, supply.ends))
    return None if higher == thresholds else higher


def _raised(
    thresholds: tuple[Threshold, ...], lacking: Sequence[float], ends: Sequence[int | None]
) -> tuple[Threshold, ...]:
    """The thresholds, raised by the factors by which they should have admitted more tokens."""
    higher = []
    for threshold, factor, end in zip(thresholds, lacking, ends, strict=True):
        factor = 1 if factor <= 1 else max(2, _WIDEN * factor)
        # A stream that ended has no more. Its own threshold decides: another request may have read further.
        whole = end is not None and threshold.characters > end
        characters = threshold.characters if whole else int(threshold.characters * factor)
        higher.append(Threshold(min(KEYS, int(threshold.keys * factor)), characters))
    return tuple(higher)


def check_enough(data: Data, supply: Supply) -> None:
    """Raise InputError, which names what exists and what would fit, where there is less text than the request needs."""
    filtered = " after the filters" if data.filters else ""
    usable, asked = supply.usable(data), budgets(data)
    if supply.validation < data.validation.count:
        what = f"{data.validation.count:,} tokens asked for, the text has {supply.validation:,}{filtered}"
        raise InputError("data.validation", what, "give more text, or a smaller validation")
    if not usable:
        what = f"some text besides validation is needed, there are 0 tokens of it{filtered}"
        remedy = "give more text, a smaller validation, or shorter documents (`document: 4K characters` of a source)"
        raise InputError("data", f"{what}; a document of validation is not trained on", remedy)
    if data.size is None:
        return
    one_draw = None in asked
    lacking = (
        [("data.size", usable, data.size.count)]
        if one_draw
        else zip((f"data.sources: {source.title}" for source in data.sources), supply.training, asked, strict=True)
    )
    for place, have, wanted in lacking:
        if have < (wanted or 0):
            fits = usable if one_draw else _fitting(data, supply)
            what = f"{wanted:,} training tokens asked for, there are {have:,} beside the validation set{filtered}"
            remedy = f", or ask for less: data.size of {fits:,} tokens would fit" if fits else ""
            raise InputError(place, what, f"give more text{remedy}")


def _fitting(data: Data, supply: Supply) -> int:
    """The largest size whose shares the sources have, 0 where there is none.

    It is found by bisection: limits may affect one size and not another, so shares are not proportional.
    """

    def fits(size: int) -> bool:
        asked = budgets(data.model_copy(update={"size": Size(size, "tokens")}))
        return all(have >= (wanted or 0) for have, wanted in zip(supply.training, asked, strict=True))

    low, high = 0, sum(supply.training) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
