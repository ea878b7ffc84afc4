"""`plan`: a recipe as a list of trainings, priced before anything is spent. Reads the reference's config alone."""

from collections.abc import Sequence
from typing import Any

from inheritune.arch import check_positions, first_half, narrow, planned_config
from inheritune.errors import InputError
from inheritune.groundwork import planned, planned_reference, steps_in, taught, text_size
from inheritune.growth import check_rounds, expected_blocks
from inheritune.inheritance import replace_budget, resolve, target_config
from inheritune.planner import SUMS, Bounds, Conditions, Device, ModelProfile, Planned, plan
from inheritune.recipe import Recipe


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
    conditions = Conditions(recipe.evaluate, *made.text, together, recipe.hardware.parallel)
    bounds = None
    if memory is not None or hours is not None:
        own = next(each for each in trainings if each.name.startswith("round"))
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
        self.whole = ModelProfile(self.config, place.trust_remote_code)
        self.inherit = replace_budget(self.config, recipe.inherit, place.trust_remote_code)
        self.source = self.whole
        if recipe.inherit.width == "half":
            self.source = ModelProfile(narrow(self.config, first_half(self.config)), place.trust_remote_code)
        self.steps = steps_in(self.text[0], training)
        self.teacher = taught("the reference", self.whole, training, self.text[0])

    def trainings(self) -> list[Planned]:
        """The reference, every round that there may be, the controls."""
        recipe = self.recipe
        kept = check_rounds(self.inherit, recipe.grow, self.whole.depth)
        sure = len(kept) if recipe.grow is not None and recipe.grow.until == "max_layers" else 1
        rounds = [
            self._target(f"round {number}", blocks, SUMS if number <= sure else ("most",))
            for number, blocks in enumerate(kept, start=1)
        ]
        reference = planned_reference(recipe, self.whole, self.config, self.text[0])
        return [reference, *rounds, *self._controls(kept)]

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

    def _target(self, name: str, kept: Sequence[int], counts: tuple[str, ...], times: int = 1) -> Planned:
        """A target trained `times` as long as the recipe says."""
        config = target_config(self.config, resolve(self.inherit, self.config, kept))
        steps = None if self.steps is None else self.steps * times
        training = self.recipe.train
        return planned(name, self.source, kept, config, training, self.text[0], steps, counts, teacher=self.teacher)

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
                    found.append(self._continued(times, SUMS if lasts == 1 else counts))
        return found

    def _continued(self, times: int, counts: tuple[str, ...]) -> Planned:
        """The reference, trained on; nobody teaches it."""
        training = self.recipe.train.model_copy(update={"distillation": None})
        steps = None if self.steps is None else self.steps * times
        every = range(self.whole.depth)
        name = "control reference-continued"
        return planned(name, self.whole, every, self.config, training, self.text[0], steps, counts)
