"""`plan`: what a recipe or a suite will cost, before anything is spent. Reads configs alone."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inheritune.arch import layer_count, narrow
from inheritune.distillation import Layout
from inheritune.errors import InputError
from inheritune.experiment.plan import (
    Models,
    PlannedArm,
    PlannedStage,
    check_budgets,
    plan_arms,
    plan_rounds,
    stage_trainings,
)
from inheritune.experiment.recovery import provisional
from inheritune.experiment.rounds import round_stages
from inheritune.experiment.stage import Stage
from inheritune.experiment.suite import Suite
from inheritune.experiment.text_size import text_size
from inheritune.losses import LossSetup, TeacherNeeds, build_losses
from inheritune.planner import SUMS, Bounds, Conditions, Device, HeadRuns, ModelProfile, Planned, Taught, plan
from inheritune.recipe import Basis, Inherit, Recipe, Training, reference_training

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def plan_recipe(
    recipe: Recipe, devices: Sequence[Device], *, together: int = 1, memory: float | None = None,
    hours: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a run of the recipe will cost: see `planner.plan`; `reference` names the model that is made smaller.

    `together` devices of a kind work at once. With `memory` (bytes of a device) or `hours`, `fit` says which number of
    blocks, micro-batch and tokens keep within them. Raises InputError for a recipe that cannot be run, and for a
    reference whose config cannot be read.
    """
    models = Models(recipe, drafts=False)
    text = text_size(recipe, models.reference.vocab_size)
    recipe, decision = provisional(recipe, models, memory or math.inf, text.train)
    inherit, stages = plan_rounds(recipe, models)
    rounds = models.planned(models.reference, stages)
    pricing = _Pricing(recipe, models)
    trainings = [pricing.reference(), *(pricing.round(one) for one in rounds), *_controls(recipe, rounds, pricing)]
    costs = pricing.plan(trainings, devices, together, memory, hours, inherit)
    return costs if decision is None else costs | {"recovery": decision.model_dump(mode="json")}


def plan_suite(
    suite: Suite, devices: Sequence[Device], *, together: int = 1, memory: float | None = None,
    hours: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What a comparison will cost, as `plan_recipe`; `seeds` lists the seeds with which every arm is trained.

    The reference is trained (or judged) once, whatever the number of arms and seeds. `fit` is that of an arm of the
    first blocks with the suite's own settings. Raises InputError with the problems of all arms.
    """
    models = Models(suite, drafts=False)
    pricing = _Pricing(suite, models)
    arms = plan_arms(suite, models)
    sequences = {arm.name: _sequences(pricing.tokens_of(arm), suite.train) for arm in arms}
    check_budgets(suite, arms, {**sequences, "": _sequences(pricing.text.train, suite.train)})
    by_name = {arm.name: pricing.arm(arm, len(suite.all_seeds)) for arm in arms}
    trainings = [pricing.reference(), *(stage for arm in suite.arms for stage in by_name[arm.name])]
    own = Inherit(layers=suite.layers, choose="first")
    priced = pricing.plan(trainings, devices, together, memory, hours, own)
    return {"reference": priced.pop("reference"), "seeds": suite.all_seeds, **priced}


class _Pricing:
    """Trainings of a recipe or a suite as the planner wants them.

    `text` is how much text there is. `rounded_down` collects, in sentences, which lengths fill no whole number of
    steps.
    """

    def __init__(self, basis: Basis, models: Models) -> None:
        self.basis, self.models = basis, models
        self.rounded_down: list[str] = []
        self._profiles: dict[str, ModelProfile] = {}
        self.whole = self._profile(models.reference)
        self.text = text_size(basis, models.reference.vocab_size)

    def plan(
        self, trainings: list[Planned], devices: Sequence[Device], together: int, memory: float | None,
        hours: float | None, inherit: Inherit,
    ) -> dict[str, Any]:  # fmt: skip
        """The planner's answer, with the reference's name and number of blocks, and what lengths are rounded down.

        Targets like that of `inherit` are the candidates for what fits into `memory` and `hours`.
        """
        conditions = Conditions(
            self.basis.evaluate, self.text.train, self.text.validation, together, self.basis.hardware.parallel,
            self.text.estimated_from,
        )  # fmt: skip
        bounds = None
        if memory is not None or hours is not None:
            candidates, depth = _every_depth(inherit, self), self.whole.depth
            own = len(round_stages(inherit, None, depth)[0].blocks)
            like = next((each for each in candidates if len(each.kept) == own), candidates[-1])
            bounds = Bounds(memory, hours, like, candidates)
        reference = {"name": self.basis.reference.title, "blocks": self.whole.depth}
        rounded = list(dict.fromkeys(self.rounded_down))
        return {"reference": reference, "rounded_down": rounded, **plan(trainings, conditions, devices, bounds)}

    def reference(self) -> Planned:
        """The reference: trained first where the basis says so, otherwise only judged."""
        training = reference_training(self.basis)
        stage = PlannedStage(Stage(range(self.whole.depth)), self.models.reference, self.models.reference)
        return self.training("reference", stage, training or self.basis.train, times=0 if training is None else 1)

    def arm(self, arm: PlannedArm, seeds: int) -> list[Planned]:
        """All stages of an arm."""
        tokens, stages = self.tokens_of(arm), [one.stage for one in arm.stages]
        steps, trainings = self._steps(arm.training, tokens), [arm.training] * len(stages)
        if steps is not None:
            trainings = stage_trainings(arm.training, stages, steps)
        name = arm.settings.teacher
        own = seeds if name in self.models.arms else 1  # each seed of an arm is a teacher of its own
        planned = []
        for one, training in zip(arm.stages, trainings, strict=True):
            title = f"{arm.name}, {one.stage.name}" if one.stage.name else arm.name
            first = replace(one, source=arm.stages[0].source)  # the arm's source, whose blocks a teacher knows
            teacher = self._teacher(name or "the reference", arm.teacher, first, training, tokens, own)
            planned.append(self.training(title, one, training, tokens=tokens, seeds=seeds, teacher=teacher))
        return planned

    def round(
        self, one: PlannedStage, name: str = "", *, times: int = 1, counts: tuple[str, ...] | None = None,
        training: Training | None = None,
    ) -> Planned:  # fmt: skip
        """A recipe's round, or a model like it, trained `times` as long, with other settings where there are some."""
        training = training or self.basis.train
        teacher = self._teacher("the reference", self.models.reference, one, training, self.text.train)
        return self.training(name or one.stage.name, one, training, times=times, counts=counts, teacher=teacher)

    def training(
        self, name: str, one: PlannedStage, training: Training, *, tokens: int | None = None, times: int = 1,
        counts: tuple[str, ...] | None = None, seeds: int = 1, teacher: Taught | None = None,
    ) -> Planned:  # fmt: skip
        """A training on `tokens` of text (None: the basis's), `times` as long as it says (0: only judged)."""
        tokens = self.text.train if tokens is None else tokens
        sequences = _sequences(tokens, training)
        steps = self._steps(training, tokens) if times else 0
        steps = None if steps is None else steps * times
        epochs = None if not steps or not sequences else steps * training.batch_sequences / sequences
        width = one.stage.spec(one.source).width
        profile = self._profile(one.source if width.is_full_width else narrow(one.source, width))
        counts = counts or (SUMS if one.stage.is_certain else SUMS[1:])
        return Planned(
            name, profile, tuple(one.stage.blocks), one.target, training, steps, epochs, counts, seeds, teacher,
            one.stage.share or 1.0, None if one.stage.origins is None else tuple(one.stage.origins),
        )  # fmt: skip

    def tokens_of(self, arm: PlannedArm) -> int | None:
        """The tokens of text that an arm trains on: its own `size`, else the suite's."""
        own = arm.settings.data
        return self.text.train if own is None or own.size is None else own.size.count

    def _teacher(
        self, name: str, config: "PretrainedConfig | None", one: PlannedStage, training: Training, tokens: int | None,
        seeds: int = 1,
    ) -> Taught | None:  # fmt: skip
        """What a teacher costs a stage that learns from it; None for one that learns from the text alone. The stage's
        source is that of its arm.

        `outputs: auto` is priced as online: outputs are stored only where that takes less time. `precision: auto` is
        bfloat16, as on a GPU, unless the recipe asks for a CPU.
        """
        asked = training.distillation
        if config is None or asked is None:
            return None
        profile, length, sequences = self._profile(config), training.sequence_length, _sequences(tokens, training)
        blocks = one.stage.teacher_blocks(one.source, config)
        needs = TeacherNeeds.of(build_losses(training, LossSetup(None, one.target, config, blocks)))
        runs: HeadRuns = "never" if needs.temperature is None else "in passes"
        if asked.outputs != "stored" or sequences is None:
            return Taught(name, profile, seeds=seeds, head_runs=runs)
        states = config.vocab_size if profile.head is None else profile.head.in_features
        precision = training.precision
        if precision == "auto":
            precision = "float32" if self.basis.hardware.device == "cpu" else "bfloat16"
        layout = Layout.of(needs, length, config.vocab_size, states, config.hidden_size, precision)
        if layout.states:
            runs = "at each use"
        return Taught(name, profile, sequences * length, sequences * layout.size, seeds, runs, layout.blocks)

    def _steps(self, training: Training, tokens: int | None) -> int | None:
        """Optimizer steps on `tokens` of text; None where that depends on how many there are.

        Raises InputError for less than one.
        """
        sequences = _sequences(tokens, training)
        steps = None if sequences is None and training.length.unit == "epochs" else training.steps(sequences or 0)
        if steps == 0:
            what = f"{training.length} is less than one step of {training.batch_tokens:,} tokens"
            raise InputError("train.length", what, "give a longer length or a smaller batch")
        rounded = training.rounded_down(sequences)
        if rounded is not None:
            self.rounded_down.append(rounded)
        return steps

    def _profile(self, config: "PretrainedConfig") -> ModelProfile:
        """One profile for all targets of one source, so that each kind of block is looked at once."""
        key = config.to_json_string(use_diff=False)
        if key not in self._profiles:
            self._profiles[key] = ModelProfile(config, self.models.trust)
        return self._profiles[key]


def _controls(recipe: Recipe, rounds: Sequence[PlannedStage], pricing: _Pricing) -> list[Planned]:
    """Controls have the depth and the budget of the result: those of the first round, or of the last."""
    planned = []
    trained = recipe.grow is not None and recipe.grow.start == "trained"
    lasts = len(rounds) if trained else 1  # rounds that the last result went through
    ends: list[tuple[PlannedStage, int, tuple[str, ...]]] = [(rounds[0], 1, SUMS)]
    if len(rounds) > 1:
        ends = [(rounds[0], 1, SUMS[:1]), (rounds[-1], lasts, SUMS[1:])]
    config = pricing.models.reference
    whole = PlannedStage(Stage(range(pricing.whole.depth), "whole"), config, config)
    untaught = recipe.train.model_copy(update={"distillation": None})
    for name in recipe.controls:
        for one, times, counts in ends:
            if name == "random":
                planned.append(pricing.round(one, "control random", times=times, counts=counts))
            elif counts == SUMS[-len(counts) :]:
                counts = SUMS if lasts == 1 else counts
                planned.append(pricing.round(whole, f"control {name}", times=times, counts=counts, training=untaught))
    return planned


def _every_depth(inherit: Inherit, pricing: _Pricing) -> list[Planned]:
    """A target like the first round with every number of blocks that there can be."""
    models, candidates = pricing.models, []
    total = layer_count(models.reference)
    listed = inherit.layers if isinstance(inherit.layers, list) else None
    for depth in range(1, (total if listed is None else len(listed)) + 1):
        spec = inherit.model_copy(update={"layers": depth if listed is None else listed[:depth]})
        try:
            one = models.planned(models.reference, round_stages(spec, None, total))[0]
            candidates.append(pricing.round(one, f"{depth} blocks", counts=SUMS))
        except InputError:  # an odd number of stacked blocks; a hybrid's blocks without attention
            continue
    return candidates


def _sequences(tokens: int | None, training: Training) -> int | None:
    """Sequences of a text of so many tokens; None where that is not known. Raises InputError for less than one."""
    length = training.sequence_length
    sequences = None if tokens is None else (tokens - 1) // length
    if sequences == 0:
        what = f"{tokens:,} tokens do not fill one sequence of {length}"
        raise InputError("data: training text", what, "give more text, or a smaller train.sequence_length")
    return sequences
