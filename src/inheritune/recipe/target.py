"""The recipe's `inherit`, `grow` and `evaluate`: the target's start, its rounds, and how it is judged."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from inheritune.recipe.base import Part
from inheritune.recipe.size import Size, Steps

Choice = Literal["first", "last", "middle", "ends"]


def parse_layers(value: Any) -> Any:
    """Read `layers`: a number, a fraction, `half`, or a list of blocks such as [0-11, 24, 25].

    Raises ValueError with what is legal.
    """
    legal = "legal are a number of blocks (13), a fraction (0.5), half, or a list of blocks such as [0-11, 24, 25]"
    if value == "half":
        return 0.5
    if isinstance(value, bool) or not isinstance(value, int | float | str | list | tuple):
        raise ValueError(legal)
    if isinstance(value, str):
        text = value.strip("[] ")
        if text.replace(".", "", 1).isdigit():
            return parse_layers(float(text) if "." in text else int(text))
        value = [part.strip() for part in text.split(",")]
    if isinstance(value, int | float):
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError(f"a fraction of the blocks lies in (0, 1]; {legal}")
        if value <= 0:
            raise ValueError(f"at least one block is inherited; {legal}")
        return value
    return _blocks(value, legal)


def _blocks(parts: Any, legal: str) -> list[int]:
    blocks: list[int] = []
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        if isinstance(part, bool) or not first.isdigit() or (dash and not last.isdigit()):
            raise ValueError(f"{part!r} is not a block or a range of blocks; {legal}")
        if dash and int(last) < int(first):
            raise ValueError(f"the range {part} is reversed; {legal}")
        blocks.extend(range(int(first), int(last) + 1) if dash else [int(first)])
    if not blocks:
        raise ValueError(f"the list is empty; {legal}")
    if blocks != sorted(set(blocks)):
        raise ValueError(f"blocks are listed in rising order, each once; {legal}")
    return blocks


Layers = Annotated[int | float | list[int], BeforeValidator(parse_layers)]


class Inherit(Part):
    """Which of the reference's blocks the target starts with. Embeddings, final norm and head always come along."""

    layers: Layers = 0.5
    """How many blocks: a number, a fraction of the reference's, `half`, or a list such as [0-11, 24, 25] (from 0)."""
    choose: Choice = "first"
    """Which ones when `layers` is a number: the first (the paper's choice), the last, the middle, or both ends (the
    first four fifths of the number, and the rest from the end)."""


class Grow(Part):
    """Rounds after the first. Each starts again from the reference's own blocks (paper, algorithm 1)."""

    by: Annotated[int, Field(ge=1)] = 2
    """Blocks added each round."""
    until: Literal["matched", "max_layers"] = "matched"
    """Stop at the first round that matches the reference, or go through all depths up to max_layers."""
    max_layers: Annotated[int, Field(ge=1)] | None = None
    """The deepest round. Default: one block fewer than the reference."""


class Evaluate(Part):
    """How models are judged."""

    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """Matched: the target's mean validation loss exceeds the reference's by at most this, in nats a token."""
    every: Steps = Size(100, "steps")
    """How often a validation loss is taken during training (for the curves; it decides nothing)."""
    sequences: Annotated[int, Field(ge=1)] = 32
    """On how many of the validation sequences, during training. The verdict always uses all of them."""


Control = Literal["random", "reference-continued"]
