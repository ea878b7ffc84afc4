"""A whole recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from inheritune.recipe.data import Data
from inheritune.recipe.file import load_file
from inheritune.recipe.recovery import Recovery, with_recovery
from inheritune.recipe.reference import AnyReference
from inheritune.recipe.target import Control, Evaluate, EvaluateRun, Grow, Inherit, parse_names
from inheritune.recipe.training import Training
from inheritune.settings.part import Part
from inheritune.settings.size import In, Size

Tracker = Literal["tensorboard", "wandb", "trackio"]
MOST_THREADS = 1024


def parse_track(value: Any) -> Any:
    """Read `track`: one name, a list, or one text with commas; null is none. Raises ValueError with what is legal."""
    legal = f"legal are {', '.join(get_args(Tracker))}, or a list of them"
    return parse_names([] if value is None else value, get_args(Tracker), legal)


class Hardware(Part):
    """What the run computes on."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: CUDA if there is a GPU, else MPS, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = None
    """CPU threads of a process, at most 1024. Default: as many as PyTorch takes. The same number is needed for
    bit-equal results."""
    parallel: Literal["auto", "ddp", "fsdp", "hsdp"] = "auto"
    """How several processes (torchrun) share a model. ddp: each holds all of it; fsdp: each holds a share of weights,
    gradients and optimizer states, block by block; hsdp: the processes of a node share them, and each node holds all.
    auto: one process holds it alone, several with ddp where weights, gradients and states take less than a quarter of
    a device's memory; else with hsdp where there are several nodes and a node's share takes less than half of it; else
    with fsdp."""
    timeout: Annotated[Size, In("minutes")] = Size(10, "minutes")
    """How long a process waits for another one before the job ends with an error."""


class Basis(Part):
    """What a single run and a comparison have in common."""

    reference: AnyReference
    """The large model: a hub id, a folder, a .gguf file, or {train: ...} to make one first."""
    data: Data
    """The text."""
    train: Training
    """How each model (of a round, a control, an arm) is trained."""
    evaluate: Evaluate = Evaluate()
    """How models are judged."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Decides the draw of documents, the order of sequences, random weights and dropout."""
    hardware: Hardware = Hardware()
    """Device and threads."""
    track: Annotated[list[Tracker], BeforeValidator(parse_track)] = []
    """Where curves are shown while a training runs, besides metrics.jsonl: one name or a list. Each needs its extra, as
    in pip install 'inheritune[wandb]'. Changes nothing in the result, and may differ when a run is resumed."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.data.sources and self.data.validation.count <= self.train.sequence_length:
            raise ValueError(
                f"data.validation: {self.data.validation} are less than a sequence ({self.train.sequence_length});"
                f" give '{self.train.sequence_length + 1} tokens' or more, or lower train.sequence_length"
            )
        new = self.reference.train
        if new is not None and not isinstance(new.tokenizer, str) and not self.data.sources:
            raise ValueError(
                "reference.train.tokenizer: a new tokenizer is trained on data.sources, and the data is already"
                " tokenised; name the tokenizer that prepared it"
            )
        return self


def reference_training(basis: Basis) -> Training | None:
    """How the reference is trained, new or tuned: as the targets, without a teacher and with its own settings.

    None where it is taken as it is.
    """
    new = basis.reference.train or basis.reference.tune
    if new is None:
        return None
    keys = ("length", "batch", "optimizer", "schedule")
    own = {name: value for name in keys if (value := getattr(new, name, None)) is not None}
    return basis.train.model_copy(update={**own, "distillation": None})


class Recipe(Basis):
    """Everything that `inheritune run` needs to know."""

    evaluate: EvaluateRun = EvaluateRun()
    """How models are judged, and what is shown of them."""
    inherit: Inherit = Inherit()
    """What the target starts with."""
    grow: Grow | None = Grow()
    """Rounds with more blocks while the target does not match; null: a single round."""
    recovery: Recovery = Recovery()
    """How the small model gets its quality back, where the keys of this recipe do not say."""
    controls: list[Control] = []
    """`random`: the same small model from random weights, on the same tokens. `reference-continued`: the reference
    trained on the same tokens, for text that is new to it. Made for the depth of the result."""

    @model_validator(mode="before")
    @classmethod
    def _decided_keys(cls, tree: Any) -> Any:
        return with_recovery(tree)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.controls)) < len(self.controls):
            raise ValueError("controls: a control is named twice; name each once")
        if "reference-continued" in self.controls and self.reference.tune is not None:
            raise ValueError("controls: the tuned reference is what reference-continued would be; remove the control")
        if self.inherit.vocabulary is not None and (not self.data.sources or self.reference.train is not None):
            raise ValueError(
                "inherit.vocabulary: it goes with data.sources and a reference that is there already; remove it"
            )
        if self.grow is not None and isinstance(self.inherit.layers, list):
            raise ValueError(
                "inherit.layers: a list of blocks cannot be grown by number; give grow: null for a single round, or"
                " a number of layers with `choose`"
            )
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = (), *, saved: bool = False) -> Recipe:
    """Read and check a recipe; `overrides` are texts such as `train.length=2 epochs`. Raises InputError with every
    problem found.
    """
    return load_file(Recipe, path, overrides, saved=saved)
