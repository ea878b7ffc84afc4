"""The recipe's keys for narrower blocks: how many units of each kind are kept, and how they are chosen."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from inheritune.settings.part import Part

AXES = ("heads", "head_size", "mlp", "hidden", "experts")
"""The keys of `Widths` that say how many units are kept."""


def parse_number(value: Any) -> Any:
    """Read a number of units: a whole number from 1, a fraction, `half`, or null for all.

    Raises ValueError with what is legal.
    """
    legal = "legal are a number (1024), a fraction (0.5), half, or null for all"
    if isinstance(value, str):
        text = value.strip()
        value = {"half": 0.5, "all": None, "none": None, "null": None}.get(text, value)
        if isinstance(value, str) and text.replace(".", "", 1).isdecimal() and text.isascii() and len(text) < 12:
            value = float(text) if "." in text else int(text)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(legal)
    if isinstance(value, float) and not 0 < value <= 1:
        raise ValueError(f"a fraction lies in (0, 1]; {legal}")
    if value <= 0:
        raise ValueError(f"at least one is kept; {legal}")
    return value


Number = Annotated[int | float | None, BeforeValidator(parse_number)]


def parse_vocabulary(value: Any) -> Any:
    """Read `vocabulary`: as `parse_number`, or `text`. Raises ValueError with what is legal."""
    if value == "text":
        return value
    try:
        return parse_number(value)
    except ValueError as error:
        raise ValueError(f"{error}; or text: what the training text needs") from None


def vocabulary_count(vocabulary: int | float | str, total: int) -> int | None:
    """How many of `total` tokens are kept; None for as many as the text needs."""
    if isinstance(vocabulary, str):
        return None
    return int(total * vocabulary) if isinstance(vocabulary, float) else vocabulary


Vocabulary = Annotated[int | float | Literal["text"] | None, BeforeValidator(parse_vocabulary)]


class Widths(Part):
    """How wide the target's blocks are. Every block keeps equally many units, and each its own."""

    heads: Number = None
    """How many query heads each attention keeps: a number, a fraction, `half`; null: all. Queries that share a key and
    value head are kept in whole groups where the number allows it, else equally many of each group."""
    head_size: Number = None
    """How many dimensions each head keeps: a number, a fraction, `half`; null: all. Which sizes there are depends on
    the rotary embeddings, as the dimensions that stay have to be turned as before."""
    mlp: Number = None
    """How many neurons each MLP keeps: a number, a fraction, `half`; null: all."""
    hidden: Number = None
    """How many channels the hidden states keep: a number, a fraction, `half`; null: all."""
    experts: Number = None
    """How many experts the routers of a mixture choose from: a number, a fraction, `half`; null: all."""

    @property
    def widths(self) -> dict[str, int | float]:
        """The axes along which something is dropped, with how much is kept."""
        return {axis: value for axis in AXES if (value := getattr(self, axis)) is not None}

    @property
    def is_full_width(self) -> bool:
        """Whether the blocks keep their width."""
        return not self.widths


class ChosenWidths(Widths):
    """How wide the target's blocks are, and how their units are chosen."""

    importance: Annotated[str, Field(min_length=1)] = "auto"
    """How the units that are kept are chosen. auto: the criterion of each axis that measured best (docs/inheriting.md),
    on training text; of hidden channels the first principal components, where the architecture allows it. error,
    activation, gradient, router and magnitude (weights alone, no text) are criteria. first: the first units, the
    paper's choice for half the width."""

    @property
    def only_widths(self) -> "ChosenWidths":
        """These keys alone, without those of a subclass."""
        return ChosenWidths(importance=self.importance, **self.widths)

    @property
    def chooses_units(self) -> bool:
        """Whether units are chosen by their importance."""
        return self.importance != "first" and any(axis != "head_size" for axis in self.widths)


HALF = {"heads": 0.5, "mlp": 0.5, "hidden": 0.5}
"""Half of the heads, the MLP and the hidden size."""
FIRST_HALF: dict[str, Any] = {**HALF, "importance": "first"}
"""The first half of them (arXiv 2404.08634, table 5)."""
