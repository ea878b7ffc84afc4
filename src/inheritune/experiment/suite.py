"""A suite: what `inheritune compare` needs to know. Arms that differ in one thing, and all that they have in common."""

import operator
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from inheritune.errors import InputError
from inheritune.experiment.methods import METHODS
from inheritune.experiment.methods.base import Count, Method, Origin
from inheritune.recipe.file import check, load_file, merged
from inheritune.recipe.filters import Filters
from inheritune.recipe.models import Basis
from inheritune.recipe.training import Training
from inheritune.settings.components import as_named
from inheritune.settings.part import Part
from inheritune.settings.size import Tokens


def _as_method(value: Any) -> Any:
    return as_named(value, "kind", METHODS, "start")


if TYPE_CHECKING:
    Start = Method
else:
    _AnyMethod = reduce(operator.or_, METHODS.values())
    Start = Annotated[Annotated[_AnyMethod, Field(discriminator="kind")], BeforeValidator(_as_method)]


class ArmData(Part):
    """What an arm trains on where that is not the suite's own choice of documents. All are judged on the suite's."""

    size: Tokens | None = None
    """Training tokens, as `data.size`. Default: the suite's."""
    filters: Filters = []
    """Filters that exclude documents, as `data.filters`; only where the suite itself has none, so that no arm trains on
    a document of the suite's validation."""


class ArmSettings(Part):
    """One arm: a start, and what it has for itself. All else is the suite's."""

    name: Annotated[str, Field(pattern=r"^\w[\w .,+%-]*$", max_length=80)]
    """What tables and folders call it: letters, digits, blanks and `_.,+%-`."""
    start: Start
    """The method: a name, or a mapping of `kind` and its settings."""
    train: dict[str, Any] = {}
    """Keys of the suite's `train` that this arm overrides, e.g. {optimizer: {learning_rate: 1e-3}} or
    {distillation: {}}. `sequence_length` and `attention` are the suite's, as all are judged alike."""
    teacher: Origin = None
    """Whom an arm with `train.distillation` learns from: an arm by its name, else a hub id, a folder or a .gguf file.
    Default: the reference."""
    data: ArmData | None = None
    """Another selection of the suite's text to train on."""
    allow_unequal: Annotated[str, Field(min_length=1)] | None = None
    """Why this arm may train on more or fewer tokens than the others. It is marked so in every table. Default: it may
    not, and a budget that differs is an error."""

    @model_validator(mode="after")
    def _no_trailing(self) -> Self:
        if self.name != self.name.strip(" .") or self.name == "reference":
            raise ValueError(f"name: {self.name!r} is not a name for an arm; give another one")
        return self


class Published(Part):
    """Figures of the paper that are shown beside one's own, and named as published."""

    source: Annotated[str, Field(min_length=1)]
    """Where they were published, and for which models and budget."""
    figure: Annotated[str, Field(min_length=1)] = "validation loss"
    """What they are."""
    values: Annotated[dict[str, float], Field(min_length=1)]
    """By the name of the arm that they belong to (`reference`: the full-size model); other names are rows of their
    own."""


_JUDGED_ALIKE = ("sequence_length", "attention")


class Suite(Basis):
    """Everything that `inheritune compare` needs to know: a reference, its text and settings, and the arms."""

    layers: Count = 0.5
    """How many blocks arms have that say nothing else."""
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]] = []
    """Every arm is trained once with each: they decide the order of sequences and random weights. Default: `seed`,
    which draws the documents and makes the reference."""
    arms: Annotated[list[ArmSettings], Field(min_length=1)]
    """What is compared."""
    published: Published | None = None
    """The paper's figures, if it has some for these arms."""

    @model_validator(mode="after")
    def _arms_fit(self) -> Self:
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"arms: {twice[0]} is used twice; give each arm a name of its own")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is listed twice; name each once")
        for arm in self.arms:
            settings = self.training(arm)
            if arm.teacher is not None and settings.distillation is None:
                raise ValueError(
                    f"arm {arm.name}: teacher: nothing is learnt from it without train.distillation; add it, or take"
                    " teacher away"
                )
            if arm.data is not None and (arm.data.filters and self.data.filters):
                raise ValueError(
                    f"arm {arm.name}: data.filters: the suite has filters too, so its validation could be trained on;"
                    " give data.filters to arms only"
                )
            if arm.data is not None and not self.data.sources:
                raise ValueError(f"arm {arm.name}: data: the suite's data is prepared already; give data.sources")
        return self

    @property
    def all_seeds(self) -> list[int]:
        """The seeds of the arms."""
        return self.seeds or [self.seed]

    def training(self, arm: ArmSettings) -> Training:
        """The settings that an arm is trained with. Raises ValueError, in the arm's name, where they are wrong."""
        fixed = [key for key in _JUDGED_ALIKE if key in arm.train]
        if fixed:
            raise ValueError(f"arm {arm.name}: train.{fixed[0]}: it is the suite's, as all are judged alike; remove it")
        try:
            return check(Training, merged(self.train.model_dump(mode="json"), arm.train), f"arm {arm.name}: train")
        except InputError as error:
            raise ValueError(str(error.problems[0])) from None


def load_suite(path: str | Path, overrides: Sequence[str] = ()) -> Suite:
    """Read and check a suite; see `load_recipe`."""
    return load_file(Suite, path, overrides)
