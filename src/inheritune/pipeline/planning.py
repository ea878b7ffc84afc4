"""`plan`: a recipe as a list of trainings, priced before anything is spent. Reads the reference's config alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import check_positions, halve, planned_config
from inheritune.data import list_token_files, nanogpt_files, open_prepared
from inheritune.errors import InputError
from inheritune.growth import check_rounds, expected_blocks, with_blocks
from inheritune.inheritance import settle, target_config
from inheritune.planner import SUMS, Anatomy, Bounds, Conditions, Device, Planned, plan
from inheritune.recipe import Recipe, Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def plan_recipe(
    recipe: Recipe, devices: Sequence[Device], *, together: int = 1, memory: float | None = None,
    hours: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What carrying out a recipe will cost: see `planner.plan`; `reference` says what is made smaller.

    `together` devices of a kind work at once. With `memory` (bytes of a device) or `hours`, which number of blocks,
    micro-batch and tokens keep within them. Raises InputError for a recipe that cannot be, and for a reference whose
    config cannot be read.
    """
    made = _Made(recipe)
    trainings = made.trainings()
    conditions = Conditions(recipe.evaluate, made.text[0], made.text[1], together, recipe.hardware.parallel)
    bounds = None
    if memory is not None or hours is not None:
        own = next(planned for planned in trainings if planned.name.startswith("round"))
        bounds = Bounds(memory, hours, own, made.of_every_depth())
    found = plan(trainings, conditions, devices, bounds)
    return {"reference": {"name": recipe.reference.title, "blocks": made.whole.depth}, **found}


class _Made:
    """The trainings of a recipe."""

    def __init__(self, recipe: Recipe) -> None:
        place, training = recipe.reference, recipe.train
        self.recipe = recipe
        self.config = planned_config(place, training.sequence_length, weights=False)
        check_positions(self.config, training.sequence_length, "train.sequence_length")
        self.text = text_size(recipe, self.config.vocab_size)
        self.whole = Anatomy(self.config, place.trust_remote_code)
        self.inherit = settle(self.config, recipe.inherit, place.trust_remote_code)
        narrow = recipe.inherit.width == "half"
        self.source = Anatomy(halve(self.config), place.trust_remote_code) if narrow else self.whole

    def trainings(self) -> list[Planned]:
        """The reference, every round that there may be, the controls."""
        recipe = self.recipe
        kept = check_rounds(self.inherit, recipe.grow, self.whole.depth)
        sure = len(kept) if recipe.grow is not None and recipe.grow.until == "max_layers" else 1
        rounds = [
            self._target(f"round {number}", blocks, SUMS if number <= sure else ("most",))
            for number, blocks in enumerate(kept, start=1)
        ]
        return [self._reference(), *rounds, *self._controls(kept)]

    def of_every_depth(self) -> list[Planned]:
        """The first round with every number of blocks that there can be."""
        listed, total, found = self.inherit.layers, self.whole.depth, []
        for depth in range(1, (len(listed) if isinstance(listed, list) else total) + 1):
            try:
                kept = listed[:depth] if isinstance(listed, list) else expected_blocks(self.inherit, depth, total)
                found.append(self._target(f"{depth} blocks", kept, SUMS))
            except InputError:  # an odd number, stacked; a hybrid's blocks without attention
                continue
        return found

    def _reference(self) -> Planned:
        """Trained first, or only judged."""
        new = self.recipe.reference.train
        if new is None:
            return self._of_reference("reference", self.recipe.train, 0)
        own = {name: value for name in ("length", "optimizer", "schedule") if (value := getattr(new, name)) is not None}
        return self._of_reference("reference", self.recipe.train.model_copy(update=own), 1)

    def _of_reference(self, name: str, training: Training, times: int, counts: tuple[str, ...] = SUMS) -> Planned:
        kept = tuple(range(self.whole.depth))
        return self._planned(name, self.whole, kept, self.config, training, times, counts)

    def _target(self, name: str, kept: Sequence[int], counts: tuple[str, ...], times: int = 1) -> Planned:
        config = target_config(self.config, with_blocks(self.inherit, list(kept)), self.whole.depth)
        return self._planned(name, self.source, kept, config, self.recipe.train, times, counts)

    def _controls(self, kept: Sequence[Sequence[int]]) -> list[Planned]:
        """Controls have the depth and the budget of the result: those of the first round, or of the last."""
        grow, found = self.recipe.grow, []
        lasts = len(kept) if grow is not None and grow.start == "trained" else 1  # rounds that a result went through
        ends = [(kept[0], 1, SUMS)] if len(kept) == 1 else [(kept[0], 1, SUMS[:1]), (kept[-1], lasts, SUMS[1:])]
        for name in self.recipe.controls:
            for blocks, times, counts in ends:
                if name == "random":
                    found.append(self._target("control random", blocks, counts, times))
                elif counts == SUMS[-len(counts) :]:
                    both = SUMS if lasts == 1 else counts
                    found.append(self._of_reference("control reference-continued", self.recipe.train, times, both))
        return found

    def _planned(
        self, name: str, anatomy: Anatomy, kept: Sequence[int], config: "PretrainedConfig", training: Training,
        times: int, counts: tuple[str, ...],
    ) -> Planned:  # fmt: skip
        """A training of `times` the length that `training` says."""
        length, tokens = training.sequence_length, self.text[0]
        sequences = None if tokens is None else (tokens - 1) // length
        if sequences == 0:
            what = f"{tokens:,} tokens do not fill one sequence of {length}"
            raise InputError("data: training text", what, "give more text, or a smaller train.sequence_length")
        steps = None if sequences is None and training.length.unit == "epochs" else training.steps(sequences or 0)
        if steps == 0:
            what = f"{training.length} is less than one step of {training.batch_tokens:,} tokens"
            raise InputError("train.length", what, "give a longer length or a smaller batch")
        steps = None if steps is None and times else (steps or 0) * times
        epochs = None if not steps or not sequences else steps * training.batch_sequences / sequences
        return Planned(name, anatomy, tuple(kept), config, training, steps, epochs, counts)


def text_size(recipe: Recipe, vocabulary: int) -> tuple[int | None, int]:
    """Tokens of training and validation text, as far as the recipe or a manifest says them: None where neither does, as
    where prepared text lies on another machine. Reads no text. Raises InputError for prepared data that is damaged.
    """
    data = recipe.data
    if data.sources:
        return None if data.size is None else data.size.count, data.validation.count
    files = data.tokens or (nanogpt_files(data.prepared) if data.prepared is not None else None)
    if files is not None:
        try:
            sizes = [_tokens_in(found, vocabulary) for found in list_token_files(files).values()]
        except InputError:  # they lie on another machine
            return None, data.validation.count
        return sizes[0], sizes[1]
    assert data.prepared is not None  # the recipe's check
    if not data.prepared.exists():
        return None, data.validation.count
    prepared = open_prepared(data.prepared)
    return len(prepared.tokens("train")), len(prepared.tokens("validation"))


def _tokens_in(files: Sequence[Path], vocabulary: int) -> int:
    """Tokens by the files' sizes; of .ds as wide as the vocabulary needs."""
    return sum(file.stat().st_size // (4 if file.suffix == ".ds" and vocabulary > 2**16 else 2) for file in files)
