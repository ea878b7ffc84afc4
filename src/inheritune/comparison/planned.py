"""An arm made definite."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from inheritune.errors import InputError, Problem
from inheritune.recipe import ArmSettings, StackingStart, Training


@dataclass(frozen=True)
class Planned:
    """An arm: its settings, how it is trained, how many blocks it has (where it grows, at first), the arm that its
    weights come from, all arms whose results it needs, and, where it is to be trained, what it starts with, in words
    that are the same for all starts that are.
    """

    settings: ArmSettings
    training: Training
    depth: int
    source: str | None
    needs: tuple[str, ...]
    start: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.settings.name

    @property
    def is_of_reference(self) -> bool:
        """Whether the reference, its text and these settings are all that the arm depends on."""
        return getattr(self.settings.start, "of", None) is None and self.settings.teacher is None

    @property
    def counts_source(self) -> bool:
        """Whether what the source has cost is this arm's cost too: stacking's first stage; a reference's is not."""
        return self.source is not None and isinstance(self.settings.start, StackingStart)


@contextmanager
def in_name_of(name: str) -> Iterator[None]:
    """Errors inside name the arm."""
    mine = f"arm {name}"
    try:
        yield
    except InputError as error:
        named = [
            found if found.place.startswith(mine) else Problem(f"{mine}: {found.place}", found.what, found.remedy)
            for found in error.problems
        ]
        raise InputError.of(named) from None
