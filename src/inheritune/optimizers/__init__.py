"""One file for each optimizer, found and registered automatically. Only `stepping` imports torch at its top."""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter

from inheritune.optimizers.base import Optimizer
from inheritune.settings import subclasses_in

OPTIMIZERS: list[type[Optimizer]] = subclasses_in(__name__, __path__, Optimizer, helpers=["stepping"])
"""All optimizers."""


def _read(value: Any) -> Any:
    """A mapping with its `name` and without other optimizers' keys at their defaults, as in old resolved recipes."""
    if not isinstance(value, dict):
        return value
    value = {"name": "adamw", **value}
    names = {kind.model_fields["name"].default: kind for kind in OPTIMIZERS}
    if str(value["name"]) not in names:
        raise ValueError(f"name: got {value['name']!r}; legal are {', '.join(names)}")
    own = names[value["name"]].model_fields
    for name, kind in names.items():
        for key in value.keys() & kind.model_fields.keys() - own.keys():
            if value[key] != kind.model_fields[key].default:
                owners = " or ".join(one for one, owner in names.items() if key in owner.model_fields)
                raise ValueError(
                    f"{key}: a setting of {owners}, not of {value['name']}; remove it, or give name: {name}"
                )
            value = {other: one for other, one in value.items() if other != key}
    return value


if TYPE_CHECKING:
    AnyOptimizer = Optimizer
else:
    AnyOptimizer = Annotated[reduce(or_, OPTIMIZERS), Field(discriminator="name"), BeforeValidator(_read)]


def read_optimizer(settings: dict[str, Any]) -> Optimizer:
    """An optimizer from its settings; its `name` is adamw where there is none."""
    optimizer: Optimizer = TypeAdapter(AnyOptimizer).validate_python(settings)
    return optimizer
