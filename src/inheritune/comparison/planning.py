"""`plan`: a suite as a list of trainings, priced before anything is spent. Reads configs alone."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inheritune.arch import check_positions, halve, layer_count, load_config, planned_config
from inheritune.comparison.budgets import check_budgets
from inheritune.comparison.checks import check_growth, check_stacked, check_vocabularies
from inheritune.comparison.order import in_order, needs
from inheritune.comparison.planned import Planned as PlannedArm
from inheritune.comparison.planned import in_name_of
from inheritune.comparison.starts import depth_of, first_stage_wish, wish_of
from inheritune.comparison.training import shared_out
from inheritune.errors import InputError, Problem
from inheritune.groundwork import planned, planned_reference, sequences_in, steps_in, taught, text_size
from inheritune.growth import check_rounds, with_blocks
from inheritune.inheritance import target_config
from inheritune.planner import SUMS, Anatomy, Bounds, Conditions, Device, Planned, Taught, plan
from inheritune.recipe import ArmSettings, GrowthStart, Inherit, StackingStart, Suite, Training, model_at

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def plan_suite(
    suite: Suite, devices: Sequence[Device], *, together: int = 1, memory: float | None = None,
    hours: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a comparison will cost: see `planner.plan`; `reference` says what is made smaller, `seeds` with which seeds
    every arm is trained. The reference is trained (or judged) once, whatever the number of arms and seeds.

    `together` devices of a kind work at once. With `memory` (bytes of a device) or `hours`, which number of blocks,
    micro-batch and tokens keep within them, for an arm of the first blocks with the suite's own settings.
    Raises InputError with the problems of all arms, and for a reference whose config cannot be read.
    """
    made = _Made(suite)
    trainings = made.trainings()
    conditions = Conditions(suite.evaluate, *made.text, together, suite.hardware.parallel)
    bounds = None
    if memory is not None or hours is not None:
        candidates, depth = made.of_every_depth(), depth_of_suite(suite, made.whole.depth)
        own = next((each for each in candidates if len(each.kept) == depth), candidates[-1])
        bounds = Bounds(memory, hours, own, candidates)
    found = plan(trainings, conditions, devices, bounds)
    reference = {"name": suite.reference.title, "blocks": made.whole.depth}
    return {"reference": reference, "seeds": suite.all_seeds, **found}


def depth_of_suite(suite: Suite, total: int) -> int:
    """The blocks of arms that say nothing else."""
    return depth_of(ArmSettings(name="first", start="inherit"), suite.layers, total)


class _Made:
    """The trainings of a suite. `text` are tokens of training and validation text, as far as they are known."""

    def __init__(self, suite: Suite) -> None:
        self.suite, self.trust = suite, suite.reference.trust_remote_code
        length = suite.train.sequence_length
        self.config = planned_config(suite.reference, length, weights=False)
        check_positions(self.config, length, "train.sequence_length")
        self.text = text_size(suite, self.config.vocab_size)
        self._anatomies: dict[str, Anatomy] = {}
        self.whole = self._anatomy(self.config)
        self.configs: dict[str, PretrainedConfig] = {}
        self.arms: list[PlannedArm] = []

    def trainings(self) -> list[Planned]:
        """The reference, and all stages of all arms as they stand in the file. Raises InputError in the arms' names."""
        suite, names = self.suite, [arm.name for arm in self.suite.arms]
        found: dict[str, list[Planned]] = {}
        problems: list[Problem] = []
        for arm in in_order(suite.arms):
            if any(name not in found for name in needs(arm, names)):
                continue  # that arm's problem is said
            try:
                with in_name_of(arm.name):
                    found[arm.name] = list(self._stages(arm))
            except InputError as error:
                problems.extend(error.problems)
        if problems:
            raise InputError.of(problems)
        sequences = {arm.name: sequences_in(self._tokens(arm), suite.train) for arm in suite.arms}
        known = {name: count for name, count in sequences.items() if count is not None}
        whole = sequences_in(self.text[0], suite.train)
        check_budgets(suite, self.arms, known | {"": whole} if whole is not None and len(known) == len(names) else None)
        reference = planned_reference(suite, self.whole, self.config, self.text[0])
        return [reference, *(stage for name in names for stage in found[name])]

    def of_every_depth(self) -> list[Planned]:
        """An arm of the first blocks, with every number of them that there can be."""
        training, found = self.suite.train, []
        steps = steps_in(self.text[0], training)
        teacher = self._teacher(None, training, self.text[0])
        for depth in range(1, self.whole.depth + 1):
            wish = Inherit(layers=list(range(depth)))
            try:
                config = target_config(self.config, wish, self.whole.depth)
            except InputError:  # a hybrid's blocks without attention
                continue
            kept = range(depth)
            found.append(planned(
                f"{depth} blocks", self.whole, kept, config, training, self.text[0], steps, teacher=teacher,
            ))  # fmt: skip
        return found

    def _stages(self, arm: ArmSettings) -> Iterator[Planned]:
        """The trainings of an arm: one, two (stacking), or rounds (growth)."""
        suite, start, training = self.suite, arm.start, self.suite.training(arm)
        tokens = self._tokens(arm)
        teacher = self._teacher(arm.teacher, training, tokens)
        steps = steps_in(tokens, training)
        if isinstance(start, GrowthStart):
            yield from self._rounds(arm, start, training, teacher)
            return
        of = getattr(start, "of", None)
        check_stacked(start, self.configs)
        source, share = self._config_of(of, "start.of"), 1.0
        depth = depth_of(arm, suite.layers, layer_count(self.config if isinstance(start, StackingStart) else source))
        if isinstance(start, StackingStart) and of is None:
            early, share = training, start.first_stage
            if steps is not None:
                early, training = shared_out(training, start, steps)
            wish = first_stage_wish(depth, layer_count(source))
            first = self._stage(arm, f"{arm.name}, first stage", source, wish, early, teacher)
            yield replace(first, share=share)
            source, share = first.config, 1 - share
        wish = wish_of(arm, depth, layer_count(source))
        last = replace(self._stage(arm, arm.name, source, wish, training, teacher), share=share)
        self._note(arm, depth, last.config)
        yield last

    def _stage(
        self, arm: ArmSettings, name: str, source: "PretrainedConfig", wish: Inherit, training: Training,
        teacher: Taught | None, counts: tuple[str, ...] = SUMS,
    ) -> Planned:  # fmt: skip
        tokens = self._tokens(arm)
        config = target_config(source, wish, layer_count(source))
        anatomy = self._anatomy(source if wish.width == "full" else halve(source))
        assert isinstance(wish.layers, list)
        seeds = len(self.suite.all_seeds)
        steps = steps_in(tokens, training)
        return planned(name, anatomy, wish.layers, config, training, tokens, steps, counts, seeds, teacher)

    def _rounds(
        self, arm: ArmSettings, start: GrowthStart, training: Training, teacher: Taught | None
    ) -> Iterator[Planned]:
        """Rounds of growth: the first is certain, the others follow while there is no match."""
        check_growth(arm)
        depth = depth_of(arm, self.suite.layers, self.whole.depth)
        first = Inherit(layers=depth, choose=start.choose)
        for number, kept in enumerate(check_rounds(first, start.grow, self.whole.depth), 1):
            counts = SUMS if number == 1 or start.grow.until == "max_layers" else ("most",)
            name = f"{arm.name}, round {number}"
            found = self._stage(arm, name, self.config, with_blocks(first, kept), training, teacher, counts)
            yield found
        self._note(arm, depth, found.config)

    def _note(self, arm: ArmSettings, depth: int, config: "PretrainedConfig") -> None:
        """What other arms may need of this one."""
        self.configs[arm.name] = config
        of = getattr(arm.start, "of", None)
        source = of if of in self.configs else None
        every = tuple(needs(arm, list(self.configs)))
        self.arms.append(PlannedArm(arm, self.suite.training(arm), depth, source, every))

    def _teacher(self, name: str | None, training: Training, tokens: int | None) -> Taught | None:
        if training.distillation is None:
            return None
        config = self._config_of(name, "teacher")
        seeds = len(self.suite.all_seeds) if name in self.configs else 1  # each of an arm's models teaches its own
        return taught(name or "the reference", self._anatomy(config), training, tokens, seeds)

    def _tokens(self, arm: ArmSettings) -> int | None:
        """The tokens of text that an arm trains on; filters of its own leave those that its size says."""
        if arm.data is None or arm.data.size is None:
            return self.text[0]
        return arm.data.size.count

    def _config_of(self, name: str | None, place: str) -> "PretrainedConfig":
        """The config of what is named: the reference (None), an arm, or a model elsewhere."""
        if name is None:
            return self.config
        if name in self.configs:
            return self.configs[name]
        config = load_config(model_at(name), weights=False)
        check_positions(config, self.suite.train.sequence_length, "train.sequence_length")
        check_vocabularies(name, config, self.config, place)
        return config

    def _anatomy(self, config: "PretrainedConfig") -> Anatomy:
        """One anatomy for all arms of one source, so that each kind of block is looked at once."""
        key = config.to_json_string(use_diff=False)
        if key not in self._anatomies:
            self._anatomies[key] = Anatomy(config, self.trust)
        return self._anatomies[key]
