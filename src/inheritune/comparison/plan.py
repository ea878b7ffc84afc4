"""A suite made definite, on models without weights: what every arm starts from, and what cannot work."""

from typing import TYPE_CHECKING

from inheritune.arch import build_skeleton, check_positions, layer_count, load_config, logits_width, planned_config
from inheritune.comparison.budgets import check_budgets
from inheritune.comparison.checks import check_growth, check_stacked, check_vocabularies
from inheritune.comparison.order import in_order, needs
from inheritune.comparison.planned import Planned, in_name_of
from inheritune.comparison.starts import depth_of, first_stage_wish, spelled_out, wish_of
from inheritune.data import check_filters
from inheritune.distillation import check_distillation
from inheritune.errors import InputError, Problem
from inheritune.groundwork import check_hardware
from inheritune.growth import check_rounds, with_blocks
from inheritune.inheritance import check_silencing, draft
from inheritune.recipe import ArmSettings, GrowthStart, Inherit, StackingStart, Suite, Training, model_at
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def plan(suite: Suite, runtime: Runtime) -> list[Planned]:
    """The arms in the order in which they are trained.

    Raises InputError with the problems of all arms, each in its arm's name: starts that are impossible, sources and
    teachers that are not there or do not fit, arms that need each other, budgets that differ.
    """
    _check_published(suite)
    models, names = _Models(suite), [arm.name for arm in suite.arms]
    found: list[Planned] = []
    problems: list[Problem] = []
    for arm in in_order(suite.arms):
        if any(name not in models.configs for name in needs(arm, names)):
            continue  # that arm's problem is said
        try:
            with in_name_of(arm.name):
                found.append(_planned(suite, arm, models, runtime))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError.of(problems)
    check_budgets(suite, found, None)
    return found


class _Models:
    """The configs of the reference and of the arms that are planned; targets are drafted once for arms of one shape."""

    def __init__(self, suite: Suite) -> None:
        self.suite, self.trust = suite, suite.reference.trust_remote_code
        self.reference = planned_config(suite.reference, suite.train.sequence_length)
        self.configs: dict[str, PretrainedConfig] = {}
        self._drafted: dict[tuple[str, str], PreTrainedModel] = {}

    def config_of(self, name: str | None, place: str) -> "PretrainedConfig":
        """The config of what is named: the reference (None), an arm, or a model elsewhere."""
        if name is None:
            return self.reference
        if name in self.configs:
            return self.configs[name]
        config = load_config(model_at(name))
        check_positions(config, self.suite.train.sequence_length, "train.sequence_length")
        check_vocabularies(name, config, self.reference, place)
        return config

    def target(self, source: "PretrainedConfig", wish: Inherit) -> "PreTrainedModel":
        """The target of a wish, without weights. Raises InputError as `draft` does."""
        key = (source.to_json_string(use_diff=False), wish.model_dump_json())
        if key not in self._drafted:
            self._drafted[key] = draft(build_skeleton(source, self.trust), wish, self.trust).target
        return self._drafted[key]


def _planned(suite: Suite, arm: ArmSettings, models: _Models, runtime: Runtime) -> Planned:
    training = suite.training(arm)
    check_hardware(suite, training, runtime)
    check_filters(arm.data.filters if arm.data is not None else [])
    start, of = arm.start, getattr(arm.start, "of", None)
    if training.distillation is not None:
        _check_teacher(arm, training, models)
    if isinstance(start, GrowthStart):
        return _planned_growth(arm, start, training, models)
    check_stacked(start, models.configs)
    source = models.config_of(of, "start.of")
    if isinstance(start, StackingStart):
        depth = depth_of(arm, suite.layers, layer_count(models.reference))
        if of is None:
            source = models.target(source, first_stage_wish(depth, layer_count(source))).config
    else:
        depth = depth_of(arm, suite.layers, layer_count(source))
    total = layer_count(source)
    target = models.target(source, wish_of(arm, depth, total))
    models.configs[arm.name] = target.config
    source_arm, begin = of if of in models.configs else None, spelled_out(arm, depth, total)
    wanted = tuple(needs(arm, list(models.configs)))
    return Planned(arm, training, layer_count(target.config), source_arm, wanted, begin)


def _planned_growth(arm: ArmSettings, start: GrowthStart, training: Training, models: _Models) -> Planned:
    check_growth(arm)
    total = layer_count(models.reference)
    depth = depth_of(arm, models.suite.layers, total)
    first = Inherit(layers=depth, choose=start.choose)
    for kept in check_rounds(first, start.grow, total):
        target = models.target(models.reference, with_blocks(first, kept))
        if start.grow.silent:
            check_silencing(target)
    models.configs[arm.name] = target.config
    begin = spelled_out(arm, depth, total)
    return Planned(arm, training, depth, None, tuple(needs(arm, list(models.configs))), begin)


def _check_teacher(arm: ArmSettings, training: Training, models: _Models) -> None:
    """Raise InputError where the teacher is not there, or has another vocabulary than the models that learn."""
    assert training.distillation is not None
    teacher = models.config_of(arm.teacher, "teacher")
    vocabulary = logits_width(build_skeleton(teacher, models.trust))
    check_distillation(training.distillation, vocabulary, "train.distillation.top_k")


def _check_published(suite: Suite) -> None:
    if suite.published is None:
        return
    if not set(suite.published.values) & {"reference", *(arm.name for arm in suite.arms)}:
        raise InputError("published.values", "none of the names is an arm's", "name arms of the suite, or reference")
