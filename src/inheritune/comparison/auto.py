"""`choose: auto`: the one place where blocks are decided by what the reference does with text."""

from inheritune.arm import Conditions
from inheritune.errors import InputError
from inheritune.recipe import Reference


def check_auto() -> None:
    """Raise InputError where blocks cannot be chosen by analysis."""
    raise InputError(
        "start.choose", "auto: this version has no analysis to choose by", "give first, last, middle, ends or every"
    )


def auto_blocks(count: int, source: Reference, conditions: Conditions) -> list[int]:
    """The `count` blocks of the model at `source` that are worth inheriting, rising, by its attention on the
    validation text of `conditions`. Raises InputError as `check_auto` does.
    """
    check_auto()
    raise AssertionError((count, source, conditions))
