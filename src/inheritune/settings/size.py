"""Sizes that carry their unit: `1B tokens`, `8 epochs`, `64K steps`, `10 minutes`."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_MOST = 1e18  # fits into 64 bits
_PATTERN = re.compile(r"^\s*([+-]?[0-9][0-9_]*(?:\.[0-9]+)?)\s*((?:[KMBT](?![a-z]))?)\s*(%|[a-z]+)?\s*$", re.IGNORECASE)
_PLURAL = {
    "token": "tokens",
    "step": "steps",
    "epoch": "epochs",
    "minute": "minutes",
    "sequence": "sequences",
    "character": "characters",
    "parameter": "parameters",
    "gb": "GB",
    "mb": "MB",
}


@dataclass(frozen=True)
class Size:
    """An amount and what it counts. `K`, `M`, `B` and `T` are powers of 1000."""

    amount: float
    unit: str

    def __str__(self) -> str:
        """The shortest text that reads back as the same size."""
        if self.unit == "%":
            return f"{self.amount:g}%"
        for letter, factor in reversed(_FACTORS.items()):
            scaled = self.amount / factor
            if factor > 1 and scaled >= 1 and scaled * 10 == round(scaled * 10):
                return f"{scaled:.1f}".removesuffix(".0") + f"{letter} {self.unit}"
        return f"{self.amount:.6f}".rstrip("0").rstrip(".") + f" {self.unit}"

    @property
    def count(self) -> int:
        """The amount as a whole number, rounded down."""
        return int(self.amount)

    def in_steps(self, steps: int, batch_tokens: int) -> int:
        """Steps, tokens or a share of a training of `steps` steps as a number of steps, rounded down."""
        if self.unit == "%":
            return int(self.amount * steps / 100)  # not / 100 * steps, by which 29% of 100 are 28
        return self.count if self.unit == "steps" else self.count // batch_tokens


def parse_size(text: Any, units: tuple[str, ...]) -> Size:
    """Read a size such as `1B tokens`.

    Raises ValueError, with what is legal, for anything else: a bare number included, since it could mean any unit.
    """
    example = f"legal units are {', '.join(units)}; for example '{_example(units[0])}'"
    if isinstance(text, Size):
        text = str(text)
    if not isinstance(text, str):
        raise ValueError(f"a size needs its unit: {example}")
    match = _PATTERN.match(text)
    if match is None:
        raise ValueError(f"not a size: {example}")
    number, letter, unit = match.groups()
    unit = _PLURAL.get((unit or "").lower(), (unit or "").lower())
    if unit not in units:
        raise ValueError(f"{'a size needs its unit' if not unit else f'unit {unit!r} is not legal here'}: {example}")
    amount = float(number.replace("_", "")) * _FACTORS[letter.upper()]
    if amount > _MOST:
        raise ValueError(f"a size must be at most {_MOST:.0e}: {example}")
    amount = round(amount, 6)
    if amount <= 0:
        raise ValueError(f"a size must be above 0: {example}")
    if unit in ("tokens", "steps", "sequences", "characters", "parameters") and amount != int(amount):
        raise ValueError(f"{unit} are whole: {example}")
    return Size(amount, unit)


def _example(unit: str) -> str:
    return {
        "tokens": "1M tokens",
        "steps": "2K steps",
        "epochs": "3 epochs",
        "minutes": "10 minutes",
        "characters": "2K characters",
        "parameters": "80M parameters",
        "%": "2%",
    }.get(unit, f"8 {unit}")


@dataclass(frozen=True)
class In:
    """Marks a `Size` field with the units that are legal for it: `Annotated[Size, In("tokens", "steps")]`."""

    units: tuple[str, ...]

    def __init__(self, *units: str) -> None:
        object.__setattr__(self, "units", units)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            lambda value: parse_size(value, self.units),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        pattern = "^[0-9][0-9_.]* ?[KMBT]? ?(" + "|".join(self.units) + ")$"
        return {"type": "string", "pattern": pattern, "examples": [_example(unit) for unit in self.units]}


Tokens = Annotated[Size, In("tokens")]
Length = Annotated[Size, In("tokens", "steps", "epochs")]
WarmUp = Annotated[Size, In("steps", "tokens", "%")]
Batch = Annotated[Size, In("tokens", "sequences")]
Steps = Annotated[Size, In("steps")]
Interval = Annotated[Size, In("minutes", "steps")]
