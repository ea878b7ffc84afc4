"""What every part of a recipe has in common."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
