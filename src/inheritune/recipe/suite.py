"""A suite: what `inheritune compare` needs to know. Arms that differ in one thing, and all that they have in common."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from inheritune.errors import InputError
from inheritune.recipe.file import check, load_file, merged
from inheritune.recipe.filters import Filters
from inheritune.recipe.models import Basis
from inheritune.recipe.target import Choice, Grow, Submodules, Width, parse_layers
from inheritune.recipe.training import Training
from inheritune.settings.part import Part
from inheritune.settings.size import Tokens

Origin = Annotated[str, Field(min_length=1)] | None
Count = Annotated[int | float, BeforeValidator(parse_layers)]
Blocks = Annotated[int | float | list[int], BeforeValidator(parse_layers)]


class _Start(Part):
    kind: str


class _Sized(_Start):
    layers: Count | None = None
    """How many blocks: a number, a fraction of the reference's, `half`, `all`. Default: the suite's `layers`."""


class InheritStart(_Start):
    """Blocks of the reference with their weights: the method, and its sub-modules."""

    kind: Literal["inherit"] = "inherit"
    """The start's name."""
    layers: Blocks | None = None
    """How many blocks, or a list of them such as [0-11, 24, 25]. Default: the suite's `layers`."""
    choose: Choice = "first"
    """Which blocks when `layers` is a number, as `inherit.choose` of a recipe; auto and the other measured choices look
    at the source at work on the arm's training text."""
    submodules: Submodules = "all"
    """Whose weights come along, as `inherit.submodules` of a recipe."""
    width: Width = "full"
    """full, or half: the first half of heads, hidden size and MLP."""
    of: Origin = None
    """Whose blocks: an arm of the suite by its name, else a hub id, a folder or a .gguf file. Default: the
    reference."""

    @model_validator(mode="after")
    def _choose_needs_a_number(self) -> Self:
        if isinstance(self.layers, list) and self.choose != "first":
            raise ValueError(f"choose: {self.choose} goes with a number or a fraction of blocks, not with a list")
        return self


class LazyStart(_Sized):
    """The last blocks of the reference, those whose attention has collapsed (paper, figure 3)."""

    kind: Literal["lazy"] = "lazy"
    """The start's name."""
    of: Origin = None
    """Whose blocks, as of `inherit`."""


class RandomStart(_Sized):
    """Random weights, as the architecture initialises them, in the reference's shape."""

    kind: Literal["random"] = "random"
    """The start's name."""
    width: Width = "full"
    """full, or half: of the size of the arm with half the width."""


class StackingStart(_Sized):
    """Half of the blocks trained from random weights, then put on top of themselves and trained on (paper, baselines).
    Both stages count: the arm's length is shared between them.
    """

    kind: Literal["stacking"] = "stacking"
    """The start's name."""
    of: Origin = None
    """The arm whose result is stacked, its tokens counted here too. Default: a first stage of this arm's own."""
    first_stage: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The share of the arm's steps that its own first stage takes, rounded down to whole steps."""


class HybridStackingStart(_Sized):
    """The reference's first n/2 blocks, twice (paper, baselines)."""

    kind: Literal["hybrid-stacking"] = "hybrid-stacking"
    """The start's name."""
    of: Origin = None
    """Whose blocks, as of `inherit`."""


class HalfWidthStart(_Start):
    """All blocks with the first half of heads, hidden size and MLP (paper, baselines)."""

    kind: Literal["half-width"] = "half-width"
    """The start's name."""
    of: Origin = None
    """Whose blocks, as of `inherit`."""


class DistilbertStart(_Sized):
    """Every other block of the reference, then more from three quarters of its depth on until there are enough."""

    kind: Literal["distilbert"] = "distilbert"
    """The start's name."""
    of: Origin = None
    """Whose blocks, as of `inherit`."""


class ReferenceStart(_Start):
    """The reference itself, trained on under the arms' budget."""

    kind: Literal["reference"] = "reference"
    """The start's name."""


class GrowthStart(_Sized):
    """Rounds until the target matches the reference, as `inheritune run` has them; all rounds count."""

    kind: Literal["growth"] = "growth"
    """The start's name."""
    choose: Choice = "first"
    """Which blocks, as `inherit.choose` of a recipe."""
    grow: Grow = Grow()
    """The rounds, as `grow` of a recipe. `start: reference` is the published protocol, `start: trained` goes on."""


_AnyStart = (
    InheritStart | LazyStart | RandomStart | StackingStart | HybridStackingStart | HalfWidthStart | DistilbertStart
    | ReferenceStart | GrowthStart
)  # fmt: skip
STARTS = (
    "inherit", "lazy", "random", "stacking", "hybrid-stacking", "half-width", "distilbert", "reference", "growth",
)  # fmt: skip


def _as_start(value: Any) -> Any:
    """A plain word is a start without further settings."""
    if isinstance(value, _Start):
        return value
    value = {"kind": value} if isinstance(value, str) else value
    legal = ", ".join(STARTS)
    if not isinstance(value, dict) or "kind" not in value:
        raise ValueError(f"not a start; give a name, or a mapping with the key kind: {legal}")
    if value["kind"] not in STARTS:
        near = difflib.get_close_matches(str(value["kind"]), STARTS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no start {value['kind']!r}; {hint}legal are {legal}")
    return value


Start = Annotated[Annotated[_AnyStart, Field(discriminator="kind")], BeforeValidator(_as_start)]


class ArmData(Part):
    """What an arm trains on where that is not the suite's own choice of documents. All are judged on the suite's."""

    size: Tokens | None = None
    """Training tokens, as `data.size`. Default: the suite's."""
    filters: Filters = []
    """Which documents are left out, as `data.filters`; only where the suite itself has none, so that no arm trains on
    a document of the suite's validation."""


class ArmSettings(Part):
    """One arm: a start, and what it has for itself. All else is the suite's."""

    name: Annotated[str, Field(pattern=r"^\w[\w .,+%-]*$", max_length=80)]
    """What tables and folders call it: letters, digits, blanks and `_.,+%-`."""
    start: Start
    """The weights that it starts with: a name, or a mapping of `kind` and its settings."""
    train: dict[str, Any] = {}
    """Keys of the suite's `train` that are otherwise for this arm, e.g. {optimizer: {learning_rate: 1e-3}} or
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
    """Where they stand, and for which models and budget."""
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
            raise ValueError(f"arms: {twice[0]} stands there twice; give each arm a name of its own")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one stands there twice; name each once")
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
