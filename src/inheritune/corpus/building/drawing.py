"""Drawing documents: two hashes of a text as its keys, and a gate that says how small they must be.

Validation takes the documents with the smallest hashes of their text, training those with the smallest hashes keyed
with the seed. So what is drawn does not depend on where a document stands, nor on how the work is shared out; and a
small budget needs only the documents below a gate, which is opened further where it was too narrow.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from inheritune.errors import InputError
from inheritune.recipe import Data, Size

USES = ("validation", "training")
KEYS = 2**64  # keys are drawn from range(KEYS)
_BYTES_PER_TOKEN = 6  # of text; rather too many, as what is read at first should be enough
_WIDEN = 1.3  # more than what seems to be missing, as it is an estimate
_VALIDATION_MARGIN = 4  # so few documents differ much in length from the mean


@dataclass(frozen=True)
class Share:
    """What of a source is open to one use: documents whose key is below `keys`, or the first characters of a stream."""

    keys: int = 0
    characters: int = 0


@dataclass(frozen=True)
class Gate:
    """Which documents of each source may be drawn for validation, and which for training."""

    validation: tuple[Share, ...]
    training: tuple[Share, ...]

    def covers(self, other: "Gate") -> bool:
        """Whether this one admits every document that `other` does, for whichever use."""
        sources = range(len(self.validation))
        return all(self._admitted(source, other.joined(self)) == self._admitted(source, self) for source in sources)

    @staticmethod
    def _admitted(source: int, gate: "Gate") -> tuple[tuple[int, ...], int]:
        """What decides which documents of a source are admitted: one wholly open share is enough for all of a file."""
        shares = gate.validation[source], gate.training[source]
        keys = tuple(share.keys for share in shares)
        return (KEYS,) if KEYS in keys else keys, max(share.characters for share in shares)

    def joined(self, other: "Gate") -> "Gate":
        """The narrowest gate that covers both."""
        return Gate(
            *(
                tuple(
                    Share(max(a.keys, b.keys), max(a.characters, b.characters))
                    for a, b in zip(getattr(self, use), getattr(other, use), strict=True)
                )
                for use in USES
            )
        )

    def admits(self, source: int, keys: tuple[int, int], position: int | None) -> bool:
        """Whether a document with these keys (validation's, training's) may be drawn for either.

        `position` is the number of characters before it in a stream, None for a document of a file.
        """
        shares = self.validation[source], self.training[source]
        if position is not None:
            return any(position < share.characters for share in shares)
        return any(key < share.keys for key, share in zip(keys, shares, strict=True))


@dataclass(frozen=True)
class Extent:
    """What is known of a source before it is read: bytes of text, about; None for a stream, which has no known end."""

    bytes: int | None


def text_digest(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


def document_keys(digest: bytes, seed: int) -> tuple[int, int]:
    """The validation key and the training key of a text with this digest."""
    drawn = hashlib.blake2b(digest, digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(drawn, "big")


def budgets(data: Data) -> list[int | None]:
    """Training tokens asked of each source: by weights, exactly; None where it is one draw from all, or everything.

    What a source's limit keeps it from giving is shared out among the others, by their weights.
    """
    weights = [source.weight for source in data.sources]
    limits = [None if source.limit is None else source.limit.count for source in data.sources]
    if data.size is None or None in weights:
        return [limit if data.size is None else None for limit in limits]
    found: dict[int, int] = {}
    left = data.size.count
    while True:
        rest = {n: float(weight or 0) for n, weight in enumerate(weights) if n not in found}
        shares = _shared(left, rest)
        capped = {n: limit for n, share in shares.items() if (limit := limits[n]) is not None and share > limit}
        if not capped:
            return [({**found, **shares})[n] for n in range(len(weights))]
        found |= capped
        left -= sum(capped.values())
        if len(found) == len(weights):
            return [found[n] for n in range(len(weights))]


def _shared(budget: int, weights: dict[int, float]) -> dict[int, int]:
    """A budget shared out by weights; the last takes what rounding leaves."""
    total, left, found = sum(weights.values()), budget, {}
    for number, weight in weights.items():
        found[number] = round(budget * weight / total)
        left -= found[number]
    found[max(weights)] += left
    return found


def first_gate(data: Data, extents: Sequence[Extent], least: int = 0) -> Gate:
    """As wide as it should have to be, by the bytes that there are; wholly open where that is half or more.

    At least about `least` bytes of text are to come through, as far as there are so many.
    """
    files = sum(extent.bytes or 0 for extent in extents)
    validation = data.validation.count * _BYTES_PER_TOKEN * _VALIDATION_MARGIN
    fraction = validation / files if files else 1.0
    training = []
    for wanted, extent in zip(budgets(data), extents, strict=True):
        if wanted is None and data.size is None:
            training.append(_share(extent, 1.0, 2**62))
            continue
        # without weights it is one draw from all sources, so the same fraction of each
        needed = (data.size.count if wanted is None and data.size else wanted or 0) * _BYTES_PER_TOKEN
        needed = max(needed, least)
        of = files if wanted is None else extent.bytes or 0
        training.append(_share(extent, needed / of if of else 1.0, needed + validation))
    return Gate(tuple(_share(extent, fraction, validation) for extent in extents), tuple(training))


def _share(extent: Extent, fraction: float, characters: int) -> Share:
    return Share(_keys(fraction), 0) if extent.bytes is not None else Share(0, characters)


def _keys(fraction: float) -> int:
    return KEYS if fraction >= 0.5 else max(1, int(KEYS * fraction))


@dataclass(frozen=True)
class Supply:
    """What a gate let through: tokens of validation, those of training by source.

    `ends` has the characters of each stream that was read to its end, None for the others and for files.
    """

    validation: int
    training: tuple[int, ...]
    ends: tuple[int | None, ...]

    def usable(self, data: Data) -> int:
        """Training tokens, no more of a source than its limit."""
        limits = (source.limit for source in data.sources)
        return sum(
            tokens if limit is None else min(tokens, limit.count)
            for tokens, limit in zip(self.training, limits, strict=True)
        )


def wider(data: Data, gate: Gate, supply: Supply) -> Gate | None:
    """The gate to go on with where this one let too little through; None where it is enough, or wholly open."""
    lacking = data.validation.count / max(0.5, supply.validation)
    validation = _widened(gate.validation, [lacking] * len(data.sources), supply.ends)
    training = _widened(gate.training, _lacking(data, supply), supply.ends)
    found = Gate(validation, training)
    return None if found == gate else found


def _lacking(data: Data, supply: Supply) -> list[float]:
    """How many times as many tokens each source should have let through."""
    asked = budgets(data)
    if data.size is not None and None in asked:
        return [data.size.count / max(0.5, supply.usable(data))] * len(asked)
    return [(wanted or 0) / max(0.5, have) for wanted, have in zip(asked, supply.training, strict=True)]


def check_enough(data: Data, supply: Supply) -> None:
    """Raise InputError, saying what there is and what would fit, where there is less text than is asked for."""
    if supply.validation < data.validation.count:
        raise InputError(
            "data.validation",
            f"{data.validation.count:,} tokens asked for, the text has {supply.validation:,}{_filtered(data)}",
            "give more text, or a smaller validation",
        )
    usable = supply.usable(data)
    if not usable:
        raise InputError(
            "data",
            f"some text besides validation is needed, there are 0 tokens of it{_filtered(data)}",
            "give more text, or a smaller validation",
        )
    if data.size is None:
        return
    asked = budgets(data)
    if None in asked:
        if usable < data.size.count:
            raise _too_little("data.size", data, data.size.count, usable, usable)
        return
    fits = _fitting(data, supply)
    for source, have, wanted in zip(data.sources, supply.training, asked, strict=True):
        if have < (wanted or 0):
            raise _too_little(f"data.sources: {source.title}", data, wanted or 0, have, fits)


def _fitting(data: Data, supply: Supply) -> int:
    """The largest size whose shares the sources have, 0 where there is none.

    Searched for: the shares of a smaller size are not in proportion where limits hold for one size only.
    """

    def fits(size: int) -> bool:
        asked = budgets(data.model_copy(update={"size": Size(size, "tokens")}))
        return all(have >= (wanted or 0) for have, wanted in zip(supply.training, asked, strict=True))

    low, high = 0, sum(supply.training) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _filtered(data: Data) -> str:
    return " after the filters" if data.filters else ""


def _too_little(place: str, data: Data, wanted: int, have: int, fits: int) -> InputError:
    remedy = f", or ask for less: data.size of {fits:,} tokens would fit" if fits else ""
    return InputError(
        place,
        f"{wanted:,} training tokens asked for, there are {have:,} beside the validation set{_filtered(data)}",
        f"give more text{remedy}",
    )


def _widened(shares: tuple[Share, ...], lacking: Sequence[float], ends: Sequence[int | None]) -> tuple[Share, ...]:
    found = []
    for share, factor, end in zip(shares, lacking, ends, strict=True):
        factor = 1 if factor <= 1 else max(2, _WIDEN * factor)
        whole = end is not None and share.characters > end  # by its own width, as others may have read on
        characters = share.characters if whole else int(share.characters * factor)
        found.append(Share(min(KEYS, int(share.keys * factor)), characters))
    return tuple(found)
