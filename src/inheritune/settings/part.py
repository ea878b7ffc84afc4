"""What every part of a recipe has in common."""

from typing import Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator
from pydantic.fields import FieldInfo


class Unfit:
    """Stands for a value that pydantic would take and that is wrong all the same; `why` says what is wrong."""

    def __init__(self, value: Any, why: str) -> None:
        self.value, self.why = value, why

    def __repr__(self) -> str:
        return repr(self.value)


class Part(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after the check.

    True and false are not numbers, and no text holds a NUL character, which no file name can have.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fit(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        known = cls.model_fields
        return {
            name: _checked(value, _types_of(known[name])) if name in known else value for name, value in fields.items()
        }


def _checked(value: Any, types: set[Any]) -> Any:
    """`value`, in which what does not fit a field of these types is `Unfit`, which no field takes."""
    if isinstance(value, list | tuple):
        return [_checked(entry, types) for entry in value]
    if isinstance(value, dict):
        return {key: _checked(entry, types) for key, entry in value.items()}
    if isinstance(value, bool) and types & {int, float} and bool not in types:
        return Unfit(value, "not a number; give a number")
    if isinstance(value, str) and "\0" in value:
        return Unfit(value, "a NUL character in it; take it out")
    return value


def _types_of(field: FieldInfo) -> set[Any]:
    """The types of a field; none where it has a check of its own for what it is given."""
    own = any(isinstance(mark, BeforeValidator) for mark in field.metadata)
    return set() if own else _types_in(field.annotation)


def _types_in(annotation: Any) -> set[Any]:
    arguments = get_args(annotation)
    return {annotation} if not arguments else {kind for argument in arguments for kind in _types_in(argument)}
