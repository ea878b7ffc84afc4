"""The recipe's `inherit`, `grow` and `evaluate`: the target's start, its rounds, and how it is judged."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from inheritune.recipe.budget import Budget, check_budget, is_number
from inheritune.recipe.widths import ChosenWidths, Vocabulary
from inheritune.settings.part import Part
from inheritune.settings.size import Size, Steps, Tokens

Measured = Literal["auto", "rank", "influence", "loss"]
Choice = Literal["first", "last", "middle", "ends", "every", "stacked", Measured]
MEASURED: tuple[Measured, ...] = get_args(Measured)
"""Choices that run the model on text."""
Submodule = Literal["attention", "mlp", "norms", "final_norm", "embeddings", "head"]


def parse_layers(value: Any) -> Any:
    """Read `layers`: a number, a fraction, `half`, `all`, or a list of blocks such as [0-11, 24, 25].

    Raises ValueError with what is legal.
    """
    legal = "legal are a number of blocks (13), a fraction (0.5), half, all, or a list of blocks such as [0-11, 24, 25]"
    if value in ("half", "all"):
        return 0.5 if value == "half" else 1.0
    if isinstance(value, str) and value.strip().lower().endswith(_ENDINGS):
        raise ValueError(f"{value} is a size; write size: {value} and shape: depth in place of layers")
    if isinstance(value, bool) or not isinstance(value, int | float | str | list | tuple):
        raise ValueError(legal)
    if isinstance(value, str):
        text = value.strip("[] ")
        if is_number(text.replace(".", "", 1)):
            return parse_layers(float(text) if "." in text else int(text))
        value = [part.strip() for part in text.split(",")]
    if isinstance(value, int | float):
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError(f"a fraction of the blocks lies in (0, 1]; {legal}")
        if value <= 0:
            raise ValueError(f"at least one block is inherited; {legal}")
        return value
    return _blocks(value, legal)


_ENDINGS = ("parameters", "parameter", "gb", "mb")
_MOST_BLOCKS = 100_000  # more than any model has: a typing error shall not make a list of millions


def _blocks(parts: Any, legal: str) -> list[int]:
    blocks: list[int] = []
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        if isinstance(part, bool) or not is_number(first) or (dash and not is_number(last)):
            raise ValueError(f"{part!r} is not a block or a range of blocks; {legal}")
        if dash and int(last) < int(first):
            raise ValueError(f"the range {part} is reversed; {legal}")
        if dash and int(last) - int(first) >= _MOST_BLOCKS:
            raise ValueError(f"{part} are more blocks than any model has; {legal}")
        blocks.extend(range(int(first), int(last) + 1) if dash else [int(first)])
    if not blocks:
        raise ValueError(f"the list is empty; {legal}")
    if blocks != sorted(set(blocks)):
        raise ValueError(f"blocks are listed in rising order, each once; {legal}")
    return blocks


def parse_submodules(value: Any) -> Any:
    """Read `submodules`: all, none, or a list, which may be one text with commas.

    Raises ValueError with what is legal.
    """
    if value in ("all", "none"):
        return value
    legal = f"legal are all, none, or a list of {', '.join(get_args(Submodule))}"
    return parse_names(value or None, get_args(Submodule), legal)


def parse_names(value: Any, names: Sequence[str], legal: str) -> list[str]:
    """Read a list of `names`, which may be one text with commas. Raises ValueError with what is `legal`."""
    listed = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        raise ValueError(legal)
    for name in listed:
        if name not in names:
            raise ValueError(f"there is no {name!r}; {legal}")
    if len(set(listed)) < len(listed):
        raise ValueError(f"one is named twice; {legal}")
    return list(listed)


Submodules = Annotated[Literal["all", "none"] | list[Submodule], BeforeValidator(parse_submodules)]
Layers = Annotated[int | float | list[int], BeforeValidator(parse_layers)]


def _or_none(value: Any) -> Any:
    return None if value == "none" else value


Refit = Annotated[Tokens | None, BeforeValidator(_or_none)]


def check_widths(widths: ChosenWidths, submodules: Submodules) -> None:
    """Raise ValueError for settings that a choice of units does not go with."""
    if widths.chooses_units and submodules != "all":
        raise ValueError("units are chosen with submodules: all; for other submodules set importance to first")


def check_refit(refit: Size | None, submodules: Submodules, choose: Choice) -> None:
    """Raise ValueError for settings that a refit of kept blocks does not go with."""
    if refit is not None and (submodules != "all" or choose == "stacked"):
        raise ValueError("refit goes with submodules: all, and without choose: stacked")


class Inherit(Budget):
    """What the target starts with: which of the reference's blocks, how wide, and which of their weights."""

    layers: Layers = 0.5
    """How many blocks: a number, a fraction of the reference's, `half`, `all`, or a list such as [0-11, 24, 25]
    (numbers from 0, rising). See `size` for as many as a model of a size may have."""
    choose: Choice = "auto"
    """Which ones when `layers` is a number. auto, on training text (docs/analysis.md): one block after the other is
    dropped, each time the one without which the loss rises least, neighbours being parted for a clear gain alone.
    first: the paper's choice; recipes that follow it say so. last, middle; ends (a fifth of the number from the end,
    rounded down but at least one of two or more, and the rest from the start); every (k-th, spread evenly from block
    0); stacked (the first half of the number, twice: stacking and hybrid stacking). Measured as auto is: the blocks of
    the highest rank (of attention), influence (on the hidden states) or loss (when skipped alone). A measured choice is
    an order: further rounds put blocks back in the reverse of the order in which they were dropped."""
    calibration: Tokens = Size(3072, "tokens")
    """How many training tokens a measured choice sees; all where there are fewer."""
    recovery: Annotated[Tokens | None, BeforeValidator(_or_none)] = Size(1024, "tokens")
    """With auto: after each dropped block the remaining ones (of a copy) are trained on so many further training
    tokens, so that the next choice disregards what training repairs. none: not at all."""
    refit: Refit = None
    """From how many training tokens the kept blocks are refitted before training, such as `32K tokens`; none: not at
    all. The last matrices of attention and MLP of each block are fitted by least squares to the reference's hidden
    states just before the next kept block, so that they stand in for the dropped blocks between."""
    vocabulary: Vocabulary = None
    """How many tokens the vocabulary keeps: a number, a fraction, `half`, or `text`: those that the training text
    needs, which is then split as before. Bytes and special tokens always stay. The reference loses the other tokens
    first, with their embeddings, and is then what the run's models inherit from and are compared with. Only with
    data.sources."""
    submodules: Submodules = "all"
    """Whose weights are copied: all, none (random weights), or a list of attention, mlp, norms, final_norm, embeddings,
    head. The others are initialised as the architecture does it. A tied head belongs to the embeddings."""

    @model_validator(mode="after")
    def _choose_needs_a_number(self) -> "Inherit":
        if isinstance(self.layers, list) and self.choose != "first":
            if "choose" in self.model_fields_set:
                raise ValueError(
                    f"choose: {self.choose} goes with a number or a fraction of blocks, not with a list of them"
                )
            self.__dict__["choose"] = "first"  # the list is the choice
        return self

    @model_validator(mode="after")
    def _budget_decides_alone(self) -> "Inherit":
        # Compared with the default, as the resolved recipe of a run, which can be run itself, has every key.
        default = self.layers == type(self).model_fields["layers"].default
        check_budget(self, None if default else self.layers, self.submodules, self.choose)
        return self

    @model_validator(mode="after")
    def _refit_needs_all_weights(self) -> "Inherit":
        check_refit(self.refit, self.submodules, self.choose)
        check_widths(self, self.submodules)
        return self


class Grow(Part):
    """Rounds after the first."""

    by: Annotated[int, Field(ge=1)] = 2
    """Blocks added each round."""
    until: Literal["matched", "undecided", "published", "max_layers"] = "matched"
    """When to stop: at the first round that has matched the reference (the upper bound of its gap is at most
    evaluate.tolerance); at the first that is matched or undecided (the gap itself is at most the tolerance); at the
    first whose gap is at most 0, whatever its error and the tolerance are (the published criterion); or at max_layers,
    through all depths."""
    max_layers: Annotated[int, Field(ge=1)] | None = None
    """The deepest round. Default: one block fewer than the reference."""
    start: Literal["reference", "trained"] = "reference"
    """Where a round starts: again from the reference's own blocks (the published runs), or from the model that the
    round before has trained, with further blocks of the reference put in."""
    stop_early: bool = False
    """End a round where the forecast of its curve (docs/evaluating.md) says that it cannot match: where the lower bound
    of its final loss is above what matches. The last round is not ended."""
    function_preserving: bool = False
    """With `start: trained`: insert the further blocks with zeroed output projections, so that the model's function
    does not change when it grows."""

    @model_validator(mode="after")
    def _preserving_needs_trained(self) -> "Grow":
        if self.function_preserving and self.start != "trained":
            raise ValueError(
                "function_preserving goes with start: trained; a round from the reference has no function to preserve"
            )
        return self


class Evaluate(Part):
    """How models are judged."""

    tolerance: Annotated[float, Field(ge=0)] = 0.01
    """The gap up to which a target counts as good as the reference, in nats a token. It has matched where the upper
    bound of its gap (one-sided, 95 %, over documents) is at most this, and is undecided where only the gap is."""
    every: Steps = Size(100, "steps")
    """How often a validation loss is taken during training (for the curves; it decides nothing)."""
    sequences: Annotated[int, Field(ge=1)] = 32
    """On how many of the validation sequences, during training. The verdict always uses all of them."""


def _parse_tasks(value: Any) -> Any:
    return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value


class EvaluateRun(Evaluate):
    """How the models of a run are judged, and what its page shows of reference and result besides."""

    analyze: bool = True
    """Look at the heads and layers of both on validation text, as `inheritune analyze` does: analysis/ in the run's
    folder. On 100 sequences of 100 tokens, or as many and as long as there are."""
    prompts: list[Annotated[str, Field(min_length=1)]] | None = None
    """Texts that both continue, greedily: samples.json in the run's folder. Where the tokenizer has a chat template,
    they are users' messages, and both answer. null: the beginnings of three validation documents; []: none."""
    new_tokens: Tokens = Size(48, "tokens")
    """How long such a continuation is at most."""
    tasks: Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_parse_tasks)] = []
    """Tasks of lm-evaluation-harness for reference and result, behind the controls: names of tasks and groups, `NAME@5`
    for five shots, task files (.yaml), and the groups inheritune-v1 and inheritune-v4 (docs/evaluating.md). They may
    differ when a run is resumed, or is finished: scores that are there are not computed again."""
    tasks_folder: Path | None = None
    """A folder with task files of your own, whose tasks then have names."""
    trust_task_files: bool = False
    """Read task files. They may name Python code, which is then run: only for files that you trust."""


Control = Literal["random", "reference-continued"]
