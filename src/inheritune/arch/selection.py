"""Which part of a model's width is kept, as indices."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

Indices = tuple[int, ...]

PerBlock = Indices | tuple[Indices, ...]
"""The same indices for every block, or a tuple of them for each block, in the target's order."""

Runs = tuple[tuple[int, int], ...]
"""Indices along one dimension of a tensor, as half-open ranges; end to end they make the target's dimension."""


@dataclass(frozen=True)
class Selection:
    """What a target keeps of its source's width and vocabulary: indices from 0 along each axis. None keeps all of it.

    Raises ValueError for indices that are negative, repeated or not rising, and for blocks that keep different numbers.
    """

    heads: PerBlock | None = None
    """Query heads. Each key and value head with a query head stays; all of them must keep equally many."""
    neurons: PerBlock | None = None
    """Hidden units of the MLPs."""
    hidden: Indices | None = None
    """Channels of the hidden states."""
    experts: PerBlock | None = None
    """Experts that a router chooses from. Shared experts stay."""
    head_size: Indices | None = None
    """Dimensions of each head."""
    vocabulary: Indices | None = None
    """The ids of the tokens that stay. They get the numbers from 0 in the same order."""
    by_field: tuple[tuple[str, PerBlock], ...] = ()
    """Indices for the width in one field of the source's config, for models with several widths of a kind:
    "moe_intermediate_size", "intermediate_size.3" (block 3), "word_embed_proj_dim"."""
    exact: bool = field(default=True, compare=False)
    """Whether the target must compute what the source computes without the rest, or be refused."""

    def __post_init__(self) -> None:
        widths: list[tuple[str, PerBlock | None]] = [*self.axes().items(), *self.by_field]
        if len({len(value) for value in self._values() if _is_per_block(value)}) > 1:
            raise ValueError("give indices for the same number of blocks along each axis")
        for name, value in widths:
            if value is None:
                continue
            each: Any = value if _is_per_block(value) else (value,)
            if len({len(indices) for indices in each}) != 1:
                raise ValueError(f"{name}: give equally many indices for every block")
            if any(not indices or min(indices) < 0 for indices in each):
                raise ValueError(f"{name}: give at least one index, counted from 0")
            if any(b <= a for indices in each for a, b in pairwise(indices)):
                raise ValueError(f"{name}: give indices in rising order, each once")

    @property
    def is_full_width(self) -> bool:
        """Whether width and vocabulary stay as they are."""
        return not self._values()

    @property
    def without_vocabulary(self) -> "Selection":
        """The same widths, with all tokens."""
        return replace(self, vocabulary=None)

    @property
    def blocks(self) -> int | None:
        """For how many blocks there are indices of their own; None where all blocks keep the same."""
        return next((len(value) for value in self._values() if _is_per_block(value)), None)

    def of_block(self, place: int) -> "Selection":
        """What the block at `place` keeps: a selection without indices for single blocks."""

        def own(value: PerBlock | None) -> Any:
            return value[place] if value is not None and _is_per_block(value) else value

        fields = tuple((name, own(value)) for name, value in self.by_field)
        axes: dict[str, Any] = {name: own(value) for name, value in self.axes().items()}
        return replace(self, **axes, by_field=fields)

    def axes(self) -> dict[str, PerBlock | None]:
        """The indices along each axis that has a name of its own."""
        names = ("heads", "neurons", "hidden", "experts", "head_size", "vocabulary")
        return {name: getattr(self, name) for name in names}

    def _values(self) -> list[PerBlock]:
        values = [*self.axes().values(), *(value for _, value in self.by_field)]
        return [value for value in values if value is not None]

    def at_places(self, blocks: Sequence[int]) -> "Selection":
        """The widths for a model of the source's `blocks`: fields of single blocks get the numbers of their places."""
        fields: list[tuple[str, PerBlock]] = []
        for name, indices in self.by_field:
            parts = name.split(".")
            number = next((at for at, part in enumerate(parts) if part.isdecimal()), None)
            if number is None:
                fields.append((name, indices))
                continue
            for place, block in enumerate(blocks):
                if block == int(parts[number]):
                    fields.append((".".join([*parts[:number], str(place), *parts[number + 1 :]]), indices))
        return replace(self, by_field=tuple(fields))


def _is_per_block(value: PerBlock) -> bool:
    return bool(value) and not isinstance(value[0], int)


def as_runs(indices: Iterable[int]) -> Runs:
    """Indices as half-open ranges; neighbours are joined."""
    return joined((index, index + 1) for index in indices)


def joined(runs: Iterable[tuple[int, int]]) -> Runs:
    """The same indices in as few ranges as possible."""
    merged: list[tuple[int, int]] = []
    for start, stop in runs:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], stop)
        elif stop > start:
            merged.append((start, stop))
    return tuple(merged)


def composed(outer: Runs, inner: Runs) -> Runs:
    """`inner` indices of what `outer` takes, as indices of what `outer` takes from."""
    ends = list(accumulate(stop - start for start, stop in outer))
    parts: list[tuple[int, int]] = []
    for start, stop in inner:
        at = bisect_right(ends, start)
        while start < stop:
            first, last = outer[at]
            before = ends[at] - (last - first)
            end = min(stop, ends[at])
            parts.append((first + start - before, first + end - before))
            start, at = end, at + 1
    return joined(parts)


def length(runs: Runs) -> int:
    """How many indices there are."""
    return sum(stop - start for start, stop in runs)


def lengths(runs: Iterable[Runs]) -> tuple[int, ...]:
    """The shape of a tensor of which these indices are taken along each dimension."""
    return tuple(length(along) for along in runs)
