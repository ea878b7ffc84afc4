"""Which part of a model's width is kept, as indices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

Indices = tuple[int, ...]

Runs = tuple[tuple[int, int], ...]
"""Indices along one dimension of a tensor, as half-open ranges; end to end they make the target's dimension."""


@dataclass(frozen=True)
class Selection:
    """What a target keeps of its source's width: indices from 0 along each axis. None keeps all of an axis.

    Raises ValueError for indices that are negative, repeated or not rising.
    """

    heads: Indices | None = None
    """Query heads. Each key and value head with a query head stays; all of them must keep equally many."""
    neurons: Indices | None = None
    """Hidden units of the MLPs."""
    hidden: Indices | None = None
    """Channels of the hidden states."""
    by_field: tuple[tuple[str, Indices], ...] = ()
    """Indices for the width in one field of the source's config, for models with several widths of a kind:
    "moe_intermediate_size", "intermediate_size.3" (block 3), "word_embed_proj_dim"."""

    def __post_init__(self) -> None:
        widths = [("heads", self.heads), ("neurons", self.neurons), ("hidden", self.hidden), *self.by_field]
        for name, indices in widths:
            if indices is None:
                continue
            if not indices or min(indices) < 0:
                raise ValueError(f"{name}: give at least one index, counted from 0")
            if any(b <= a for a, b in pairwise(indices)):
                raise ValueError(f"{name}: give indices in rising order, each once")

    @property
    def is_full_width(self) -> bool:
        """Whether the blocks keep their width."""
        return self.heads is self.neurons is self.hidden is None and not self.by_field

    def at_places(self, blocks: Sequence[int]) -> "Selection":
        """The widths for a model of the source's `blocks`: fields of single blocks get the numbers of their places."""
        fields = []
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


def length(runs: Runs) -> int:
    """How many indices there are."""
    return sum(stop - start for start, stop in runs)


def lengths(runs: Iterable[Runs]) -> tuple[int, ...]:
    """The shape of a tensor of which these indices are taken along each dimension."""
    return tuple(length(along) for along in runs)
