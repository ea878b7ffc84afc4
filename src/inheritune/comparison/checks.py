"""What a suite's file and configs show to be impossible, for those who plan it and those who price it."""

from collections.abc import Container
from typing import TYPE_CHECKING

from inheritune.errors import InputError
from inheritune.recipe import ArmSettings, StackingStart, Start

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def check_growth(arm: ArmSettings) -> None:
    """Raise InputError for an arm that grows and does not say that its budget is its own."""
    if arm.allow_unequal is None:
        what = "growth trains as many rounds as it needs, so its budget is no other's"
        raise InputError("start", what, "say so in allow_unequal")


def check_stacked(start: Start, arms: Container[str]) -> None:
    """Raise InputError for stacking of what is no arm, whose tokens could not be counted."""
    if isinstance(start, StackingStart) and start.of is not None and start.of not in arms:
        what, remedy = f"there is no arm {start.of!r}", "name an arm of the suite, whose result is stacked"
        raise InputError("start.of", what, remedy)


def check_vocabularies(name: str, config: "PretrainedConfig", reference: "PretrainedConfig", place: str) -> None:
    """Raise InputError where a model elsewhere has another vocabulary than the reference."""
    theirs, ours = config.vocab_size, reference.vocab_size
    if theirs != ours:
        raise InputError(
            place,
            f"the vocabulary of {name} has {theirs:,} entries, the reference's {ours:,}",
            "give a model with the same tokenizer",
        )
