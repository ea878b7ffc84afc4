"""From a suite or a recipe to the trainings that it asks for, from configs alone.

Checking, pricing and running all use this one list.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    build_skeleton,
    check_positions,
    layer_count,
    load_config,
    named_tokens,
    planned_config,
    with_vocabulary,
)
from inheritune.data import nanogpt_files
from inheritune.errors import InputError, Problem
from inheritune.experiment.rounds import round_stages
from inheritune.experiment.stage import Stage
from inheritune.experiment.suite import ArmSettings, Suite
from inheritune.inheritance import (
    TargetSpec,
    check_function_preserving,
    draft_target,
    refitted_matrices,
    replace_budget,
    target_config,
)
from inheritune.losses import LossSetup, build_losses
from inheritune.recipe import Basis, Data, Inherit, Recipe, Size, TokenFiles, Training, model_at, vocabulary_count

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class PlannedStage:
    """A stage with the configs of its source and its target."""

    stage: Stage
    source: "PretrainedConfig" = field(repr=False)
    target: "PretrainedConfig" = field(repr=False)


@dataclass(frozen=True)
class PlannedArm:
    """An arm with everything decided that a config can decide.

    `depth` is the number of blocks (of the first round, for growth), `needs` the arms whose results it needs, `source`
    the one of them that its weights come from, `start` what it starts with, in words that are equal for equal starts,
    `teacher` the config of the model that teaches it.
    """

    settings: ArmSettings
    training: Training
    depth: int
    needs: tuple[str, ...]
    source: str | None
    start: dict[str, Any] = field(repr=False)
    stages: tuple[PlannedStage, ...] = field(repr=False)
    teacher: "PretrainedConfig | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.settings.name

    @property
    def needs_reference_only(self) -> bool:
        """Whether the arm depends on nothing but the reference, its text and these settings."""
        return self.settings.start.origin is None and self.settings.teacher is None

    @property
    def counts_source(self) -> bool:
        """Whether the cost of the arm `source` is part of this arm's cost."""
        return self.source is not None and self.settings.start.counts_source


class Models:
    """The configs of the reference and of every arm that is planned.

    With `drafts`, targets are also built without weights, which shows what a config does not. Targets of one shape are
    built once.
    """

    def __init__(self, basis: Basis, *, drafts: bool) -> None:
        self.trust, self.drafts, self._length = basis.reference.trust_remote_code, drafts, basis.train.sequence_length
        self.untrimmed = planned_config(basis.reference, self._length, weights=drafts)
        self.reference = _trimmed(self.untrimmed, basis)
        check_positions(self.reference, self._length, "train.sequence_length")
        self.arms: dict[str, PretrainedConfig] = {}
        self._drafted: dict[tuple[str, TargetSpec, bool, bool], PretrainedConfig] = {}

    def config_of(self, name: str | None, place: str) -> "PretrainedConfig":
        """The config of the reference (None), of an arm, or of a model elsewhere.

        Raises InputError for a model that is not there or has another vocabulary than the reference.
        """
        if name is None:
            return self.reference
        if name in self.arms:
            return self.arms[name]
        config = load_config(model_at(name), weights=self.drafts)
        check_positions(config, self._length, "train.sequence_length")
        theirs, ours = config.vocab_size, self.reference.vocab_size
        if theirs != ours:
            what = f"the vocabulary of {name} has {theirs:,} entries, the reference's {ours:,}"
            raise InputError(place, what, "give a model with the same tokenizer")
        return config

    def target(self, source: "PretrainedConfig", stage: Stage) -> "PretrainedConfig":
        """The config of a stage's target. Raises InputError for a target that cannot be built."""
        if not self.drafts:
            return target_config(source, stage.spec(source))
        key = (source.to_json_string(use_diff=False), stage.spec(source), stage.function_preserving, bool(stage.refit))
        if key not in self._drafted:
            if stage.widths.chooses_units:
                from inheritune.inheritance.units.choice import check_importance  # loads torch

                check_importance(stage.widths)
            drafted = draft_target(build_skeleton(source, self.trust), stage.spec(source))
            model = drafted.target
            if stage.refit is not None:
                refitted_matrices(drafted)  # raises InputError where blocks cannot be refitted
            if stage.function_preserving:
                check_function_preserving(model)
            self._drafted[key] = model.config
        return self._drafted[key]

    def planned(self, source: "PretrainedConfig", stages: Sequence[Stage]) -> tuple[PlannedStage, ...]:
        """Stages with their configs. Raises InputError as `target` does."""
        done: list[PlannedStage] = []
        for stage in stages:
            origin = done[-1].target if stage.after_previous else source
            done.append(PlannedStage(stage, origin, self.target(origin, stage)))
        return tuple(done)


def _trimmed(config: "PretrainedConfig", basis: Basis) -> "PretrainedConfig":
    """The reference's config with as many tokens as `inherit.vocabulary` says; all of them where the text decides."""
    vocabulary = basis.inherit.vocabulary if isinstance(basis, Recipe) else None
    count = None if vocabulary is None else vocabulary_count(vocabulary, config.vocab_size)
    if count is None or count >= config.vocab_size:
        return config
    named = sorted(named_tokens(config))
    others = (token for token in range(config.vocab_size) if token not in set(named))
    return with_vocabulary(config, tuple(sorted([*named, *islice(others, max(0, count - len(named)))])))


def plan_rounds(recipe: Recipe, models: Models) -> tuple[Inherit, list[Stage]]:
    """A recipe's rounds, all that there may be, and its `inherit` with a number of blocks in place of size and speed.

    Shapes that are still to be compared count as whole blocks, and speeds as FLOPs. Raises InputError for rounds that
    cannot be.
    """
    inherit = replace_budget(models.reference, recipe.inherit, models.trust, models.untrimmed)
    return inherit, round_stages(inherit, recipe.grow, layer_count(models.reference))


def plan_arms(
    suite: Suite, models: Models, check: Callable[[ArmSettings, Training], None] = lambda *_: None
) -> list[PlannedArm]:
    """The arms in the order in which they are trained: each after those whose results it needs.

    Raises InputError with the problems of all arms, each with its arm's name, those that `check` raises among them.
    """
    names = [arm.name for arm in suite.arms]
    planned: list[PlannedArm] = []
    problems: list[Problem] = []
    for arm in in_order(suite.arms):
        if any(name not in models.arms for name in needs(arm, names)):
            continue  # the problem of that arm is reported
        try:
            with in_name_of(arm.name):
                training = suite.training(arm)
                check(arm, training)
                planned.append(_plan_arm(suite, arm, training, models))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError.of(problems)
    return planned


def _plan_arm(suite: Suite, arm: ArmSettings, training: Training, models: Models) -> PlannedArm:
    method = arm.start
    teacher = None if training.distillation is None else models.config_of(arm.teacher, "teacher")
    method.check(models.arms, arm.allow_unequal)
    source = models.config_of(method.origin, "start.of")
    total = layer_count(source)
    likely = method.estimated(source, models.trust)
    depth = likely.depth(suite.layers, layer_count(models.reference) if method.is_sized_by_reference else total)
    stages = models.planned(source, likely.stages(depth, total))
    for one in stages:
        check_losses(training, one.stage, source, one.target, teacher)
    source_arm = method.origin if method.origin in models.arms else None
    needed = tuple(needs(arm, list(models.arms)))
    models.arms[arm.name] = stages[-1].target
    return PlannedArm(
        arm, training, depth, needed, source_arm, method.describe(depth, total), stages, teacher
    )  # fmt: skip


def check_losses(
    training: Training, stage: Stage, source: "PretrainedConfig", target: "PretrainedConfig",
    teacher: "PretrainedConfig | None",
) -> None:  # fmt: skip
    """Raise InputError where a stage's target cannot learn from the teacher what the losses ask for."""
    blocks = None if teacher is None else stage.teacher_blocks(source, teacher)
    build_losses(training, LossSetup(None, target, teacher, blocks))


def stage_trainings(training: Training, stages: Sequence[Stage], steps: int) -> list[Training]:
    """The settings of each stage; stages that share the arm's `steps` get whole steps that add up to them.

    Raises InputError where a stage would have no step.
    """
    shares = [stage.share for stage in stages if stage.share is not None]
    if not shares:
        return [training] * len(stages)
    parts = [int(steps * share) for share in shares[:-1]]
    parts.append(steps - sum(parts))
    for part in parts:
        if part < 1:
            what = f"a stage gets {part} of {steps} steps"
            raise InputError("start.first_stage", what, "give each stage a step or more")
    return [training.model_copy(update={"length": Size(part, "steps")}) for part in parts]


def tokens_of(training: Training, sequences: int | None) -> int | None:
    """Tokens that a training sees in a training set of `sequences` sequences; None where that must be known first."""
    if training.length.unit == "epochs" and sequences is None:
        return None
    return training.steps(sequences or 0) * training.batch_tokens


def is_equal(tokens: float, budget: int, suite: Suite, arm: PlannedArm) -> bool:
    """Whether an arm's tokens are the suite's budget, to less than a step (the larger of the arm's and the suite's)."""
    return abs(tokens - budget) < max(suite.train.batch_tokens, arm.training.batch_tokens)


def check_budgets(suite: Suite, arms: Sequence[PlannedArm], sequences: Mapping[str, int | None]) -> None:
    """Raise InputError for arms whose tokens, over all stages, differ from the suite's budget undeclared.

    `sequences` are those that each arm trains on (`""`: the suite's); where they are not known yet, only lengths in
    tokens and steps are compared.
    """
    budget = tokens_of(suite.train, sequences.get(""))
    spent: dict[str | None, int | None] = {}
    problems = []
    for arm in arms:
        tokens = tokens_of(arm.training, sequences.get(arm.name))
        if arm.counts_source:
            before = spent[arm.source]
            tokens = None if tokens is None or before is None else tokens + before
        spent[arm.name] = tokens
        if tokens is None or budget is None or arm.settings.allow_unequal or is_equal(tokens, budget, suite, arm):
            continue
        what = f"{tokens:,} tokens, the suite's arms have {budget:,}"
        remedy = "give it the same, or say in allow_unequal why it differs"
        problems.append(Problem(f"arm {arm.name}: train.length", what, remedy))
    if problems:
        raise InputError.of(problems)


def token_files(data: Data) -> TokenFiles | None:
    """Token files that are used as they are, however the recipe names them."""
    return data.tokens or (nanogpt_files(data.prepared) if data.prepared is not None else None)


def needs(arm: ArmSettings, names: Sequence[str]) -> list[str]:
    """The arms among `names` whose results this one needs: the source of its weights, and its teacher."""
    wanted = [arm.start.origin, arm.teacher]
    return list(dict.fromkeys(name for name in wanted if name is not None and name in names))


def in_order(arms: Sequence[ArmSettings]) -> list[ArmSettings]:
    """The arms, each after those that it needs, otherwise in the given order. Raises InputError for a circle."""
    by_name = {arm.name: arm for arm in arms}
    ordered: dict[str, ArmSettings] = {}

    def add(arm: ArmSettings, above: tuple[str, ...]) -> None:
        if arm.name in above:
            circle = " needs ".join((*above[above.index(arm.name) :], arm.name))
            raise InputError(f"arm {arm.name}", f"needs its own result: {circle}", "let one of them start elsewhere")
        for name in needs(arm, list(by_name)):
            add(by_name[name], (*above, arm.name))
        ordered.setdefault(arm.name, arm)

    for arm in arms:
        add(arm, ())
    return list(ordered.values())


@contextmanager
def in_name_of(name: str) -> Iterator[None]:
    """Errors raised inside name the arm."""
    mine = f"arm {name}"
    try:
        yield
    except InputError as error:
        raise InputError.of([
            one if one.place.startswith(mine) else replace(one, place=f"{mine}: {one.place}") for one in error.problems
        ]) from None  # fmt: skip
