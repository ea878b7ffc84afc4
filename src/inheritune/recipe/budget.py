"""The recipe's keys for a target that may only be so large, or must be so fast: `size`, `speed` and `shape`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from inheritune.recipe.widths import ChosenWidths
from inheritune.settings.size import In, Size, parse_size

BUDGETS = ("parameters", "GB", "MB")
"""Units of a size."""
Work = Literal["generation", "training"]
"""What a speed is measured on."""
_MOST = 1000.0  # times as fast


@dataclass(frozen=True)
class Speed:
    """How many times as fast as the reference a target must be, and at what."""

    times: float
    of: Work = "generation"

    def __str__(self) -> str:
        """The text that reads back as the same speed."""
        return f"{self.times:.12g}x {self.of}"


def is_number(text: str) -> bool:
    """Whether a text is a whole number."""
    return text.isascii() and text.isdecimal() and len(text) < 10


def parse_budget(value: Any) -> Any:
    """Read `size`: parameters, bytes, a fraction, `half`, or null. Raises ValueError with what is legal."""
    if value is None or isinstance(value, Size):
        return value
    text = str(value).strip()
    if text in ("half", "null", "none"):
        return 0.5 if text == "half" else None
    if is_number(text.replace(".", "", 1)) and "." in text:
        if not 0 < float(text) <= 1:
            raise ValueError("a fraction of the reference's parameters lies in (0, 1]")
        return float(text)
    return parse_size(value, BUDGETS)


def parse_speed(value: Any) -> Any:
    """Read `speed`: `2x`, `2x generation`, `1.5x training`, or null. Raises ValueError with what is legal."""
    if value is None or isinstance(value, Speed):
        return value
    legal = "legal are 2x (of generation), 1.5x training, or null"
    words = str(value).split()
    if words in (["null"], ["none"]):
        return None
    times, *rest = words or [""]
    if len(rest) > 1 or (rest and rest[0] not in ("generation", "training")):
        raise ValueError(f"{value!r} names no work that is measured; {legal}")
    number = times.removesuffix("x")
    if number == times or not is_number(number.replace(".", "", 1)):
        raise ValueError(f"{value!r} is not a speed; {legal}")
    if not 1 < float(number) <= _MOST:
        raise ValueError(f"a target is more than 1 and at most {_MOST:g} times as fast as the reference; {legal}")
    return Speed(float(number), "training" if rest == ["training"] else "generation")


def _as_text(speed: Speed | None) -> str | None:
    return None if speed is None else str(speed)


class Budget(ChosenWidths):
    """How large the target may be or how fast it must be, and how its shape is found."""

    size: Annotated[Annotated[Size, In(*BUDGETS)] | float | None, BeforeValidator(parse_budget)] = None
    """How large the target may be: `80M parameters`, `2 GB` of weights in the reference's own dtype, or a fraction of
    the reference's parameters. In place of `layers`, `heads` and `mlp`, which are then chosen by `shape`."""
    speed: Annotated[Speed | None, BeforeValidator(parse_speed), PlainSerializer(_as_text)] = None
    """How many times as fast as the reference the target must be, in place of the same keys or beside `size`: `2x` or
    `2x generation` (greedy, one sequence, with cache), or `2x training` (forward and backward). Measured on this
    machine, with random weights, reference and target alternately."""
    shape: Literal["auto", "depth"] = "auto"
    """With `size` or `speed`: how it is spent. auto: several numbers of blocks, with MLPs, heads and hidden channels
    (those that are not given) as wide as it allows, are compared on training text after a refit and a short training.
    depth: as many whole blocks as it allows."""

    @property
    def has_budget(self) -> bool:
        """Whether `size` or `speed` decides about the shape."""
        return self.size is not None or self.speed is not None

    @property
    def compares_shapes(self) -> bool:
        """Whether shapes are compared on text."""
        return self.has_budget and self.shape == "auto"


def check_budget(spec: Budget, layers: object, submodules: object, choose: str) -> None:
    """Raise ValueError for settings that a size or a speed does not go with; `layers` is None where it is not given."""
    if not spec.has_budget:
        return
    name = " and ".join(key for key in ("size", "speed") if getattr(spec, key) is not None)
    numbers = {"layers": layers, "heads": spec.heads, "mlp": spec.mlp}
    given = [key for key, value in numbers.items() if value is not None]
    if given:
        raise ValueError(f"{name} decides about {', '.join(given)}; give one or the other")
    if submodules != "all" or choose == "stacked" or spec.importance == "first":
        raise ValueError(f"{name} goes with submodules: all, and without choose: stacked or importance: first")
