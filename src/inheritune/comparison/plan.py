"""A suite made definite: for every arm what it starts from, its model's config, its budget; and what cannot work."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inheritune.arch import build_skeleton, check_positions, layer_count, load_config, logits_width, planned_config
from inheritune.comparison.auto import check_auto
from inheritune.comparison.order import in_order, needs
from inheritune.comparison.starts import depth_of, first_stage_wish, wish_of
from inheritune.data import check_filters
from inheritune.distillation import check_distillation
from inheritune.errors import InputError, Problem
from inheritune.groundwork import check_hardware
from inheritune.growth import check_rounds, with_blocks
from inheritune.inheritance import check_silencing, draft
from inheritune.recipe import ArmSettings, GrowthStart, Inherit, InheritStart, Reference, StackingStart, Suite, Training
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Planned:
    """An arm: its settings, how it is trained, how many blocks it has (where it grows, at first), the arm that its
    weights come from, and all arms whose results it needs.
    """

    settings: ArmSettings
    training: Training
    depth: int
    source: str | None
    needs: tuple[str, ...]

    @property
    def name(self) -> str:
        """The arm's name."""
        return self.settings.name

    @property
    def counts_source(self) -> bool:
        """Whether what the source has cost is this arm's cost too: stacking's first stage; a reference's is not."""
        return self.source is not None and isinstance(self.settings.start, StackingStart)


@contextmanager
def in_name_of(name: str) -> Iterator[None]:
    """Errors inside name the arm."""
    try:
        yield
    except InputError as error:
        mine = f"arm {name}"
        raise InputError.of(
            [
                found if found.place.startswith(mine) else Problem(f"{mine}: {found.place}", found.what, found.remedy)
                for found in error.problems
            ]
        ) from None


def plan(suite: Suite, runtime: Runtime) -> list[Planned]:
    """The arms in the order in which they are trained.

    Raises InputError with the problems of all arms, each in its arm's name: starts that are impossible, sources and
    teachers that are not there or do not fit, arms that need each other, budgets that differ.
    """
    _check_published(suite)
    names = [arm.name for arm in suite.arms]
    configs: dict[str, PretrainedConfig] = {}
    found: list[Planned] = []
    problems: list[Problem] = []
    reference = planned_config(suite.reference, suite.train.sequence_length)
    for arm in in_order(suite.arms):
        if any(name not in configs for name in needs(arm, names)):
            continue  # that arm's problem is said
        try:
            with in_name_of(arm.name):
                found.append(_planned(suite, arm, reference, configs, runtime))
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError.of(problems)
    check_budgets(suite, found, None)
    return found


def _planned(
    suite: Suite, arm: ArmSettings, reference: "PretrainedConfig", configs: "dict[str, PretrainedConfig]",
    runtime: Runtime,
) -> Planned:  # fmt: skip
    training = suite.training(arm)
    check_hardware(suite, training, runtime)
    check_filters(arm.data.filters if arm.data is not None else [])
    start, of = arm.start, getattr(arm.start, "of", None)
    if isinstance(start, InheritStart) and start.choose == "auto":
        check_auto()
    if isinstance(start, GrowthStart):
        return _planned_growth(suite, arm, training, reference, configs)
    if isinstance(start, StackingStart) and of is not None and of not in configs:
        raise InputError("start.of", f"there is no arm {of!r}", f"name one of {', '.join(configs) or 'the arms'}")
    source = _config_of(of, reference, configs, suite)
    depth = depth_of(arm, suite.layers, layer_count(reference if isinstance(start, StackingStart) else source))
    if isinstance(start, StackingStart) and of is None:
        wish = first_stage_wish(depth, layer_count(source))
        source = draft(build_skeleton(source, suite.reference.trust_remote_code), wish).target.config
    target = _drafted(source, wish_of(arm, depth, layer_count(source)), suite)
    configs[arm.name] = target
    _check_teacher(suite, arm, training, target, reference, configs)
    return Planned(arm, training, layer_count(target), of if of in configs else None, tuple(needs(arm, list(configs))))


def _planned_growth(
    suite: Suite, arm: ArmSettings, training: Training, reference: "PretrainedConfig",
    configs: "dict[str, PretrainedConfig]",
) -> Planned:  # fmt: skip
    start = arm.start
    assert isinstance(start, GrowthStart)
    if arm.allow_unequal is None:
        raise InputError(
            "start", "growth trains as many rounds as it needs, so its budget is no other's", "say so in allow_unequal"
        )
    total = layer_count(reference)
    depth = depth_of(arm, suite.layers, total)
    first = Inherit(layers=depth, choose=start.choose)
    skeleton = build_skeleton(reference, suite.reference.trust_remote_code)
    for kept in check_rounds(first, start.grow, total):
        made = draft(skeleton, with_blocks(first, kept), suite.reference.trust_remote_code)
        if start.grow.silent:
            check_silencing(made.target)
        _check_teacher(suite, arm, training, made.target.config, reference, configs)
    configs[arm.name] = made.target.config
    return Planned(arm, training, depth, None, tuple(needs(arm, list(configs))))


def _config_of(
    of: str | None, reference: "PretrainedConfig", configs: "dict[str, PretrainedConfig]", suite: Suite
) -> "PretrainedConfig":
    """The config of what is named: the reference, an arm, or a model elsewhere."""
    if of is None:
        return reference
    if of in configs:
        return configs[of]
    config = load_config(Reference(path=of))
    check_positions(config, suite.train.sequence_length, "train.sequence_length")
    _check_vocabulary("start.of", of, config, reference)
    return config


def _drafted(source: "PretrainedConfig", wish: Inherit, suite: Suite) -> "PretrainedConfig":
    trust = suite.reference.trust_remote_code
    found: PretrainedConfig = draft(build_skeleton(source, trust), wish, trust).target.config
    return found


def _check_teacher(
    suite: Suite, arm: ArmSettings, training: Training, target: "PretrainedConfig", reference: "PretrainedConfig",
    configs: "dict[str, PretrainedConfig]",
) -> None:  # fmt: skip
    if training.distillation is None:
        return
    teacher = _teacher_config(arm.teacher, reference, configs)
    _check_vocabulary("teacher", arm.teacher or "the reference", teacher, target)
    vocabulary = logits_width(build_skeleton(teacher, suite.reference.trust_remote_code))
    check_distillation(training.distillation, vocabulary, "train.distillation.top_k")


def _teacher_config(
    teacher: str | None, reference: "PretrainedConfig", configs: "dict[str, PretrainedConfig]"
) -> "PretrainedConfig":
    if teacher is None:
        return reference
    return configs[teacher] if teacher in configs else load_config(Reference(path=teacher))


def _check_vocabulary(place: str, name: str, config: "PretrainedConfig", other: "PretrainedConfig") -> None:
    if config.vocab_size != other.vocab_size:
        raise InputError(
            place,
            f"{name} has a vocabulary of {config.vocab_size:,} entries, the suite's models have {other.vocab_size:,}",
            "give a model with the same tokenizer",
        )


def _check_published(suite: Suite) -> None:
    if suite.published is None:
        return
    if not set(suite.published.values) & {"reference", *(arm.name for arm in suite.arms)}:
        raise InputError("published.values", "none of the names is an arm's", "name arms of the suite, or reference")


def tokens_of(training: Training, sequences: int | None) -> int | None:
    """Tokens that a training sees over a training set of `sequences` sequences; None where that must be known first."""
    if training.length.unit == "epochs" and sequences is None:
        return None
    return training.steps(sequences or 0) * training.batch_tokens


def is_equal(tokens: int, budget: int, step: int) -> bool:
    """Whether an arm's tokens are the suite's budget, to less than a step (the larger of the two, in tokens)."""
    return abs(tokens - budget) < step


def check_budgets(suite: Suite, planned: list[Planned], sequences: dict[str, int] | None) -> None:
    """Raise InputError for arms whose budget differs and that do not declare it. `sequences` are those that each arm
    trains on (`""`: the suite); before they are known, only lengths in tokens and steps are looked at.
    """
    budget = tokens_of(suite.train, None if sequences is None else sequences[""])
    spent: dict[str, int | None] = {}
    problems = []
    for arm in planned:
        tokens = tokens_of(arm.training, None if sequences is None else sequences[arm.name])
        if arm.counts_source and arm.source is not None:
            before = spent[arm.source]
            tokens = None if tokens is None or before is None else tokens + before
        spent[arm.name] = tokens
        step = max(suite.train.batch_tokens, arm.training.batch_tokens)
        if tokens is None or budget is None or arm.settings.allow_unequal or is_equal(tokens, budget, step):
            continue
        problems.append(
            Problem(
                f"arm {arm.name}: train.length",
                f"{tokens:,} tokens, the suite's arms have {budget:,}",
                "give it the same, or say in allow_unequal why it differs",
            )
        )
    if problems:
        raise InputError.of(problems)
