"""What can be found wrong before anything is spent: checks of all inputs."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from inheritune.arch import (
    build_skeleton,
    check_positions,
    check_tokenizer_fits,
    layer_count,
    load_config,
    load_generation_config,
    load_tokenizer,
    logits_width,
    planned_config,
)
from inheritune.corpus import check_filters, list_inputs
from inheritune.data import check_tokenizer, list_token_files, open_prepared, typed
from inheritune.distillation import check_distillation
from inheritune.errors import InputError, check_all
from inheritune.experiment.plan import (
    Models,
    PlannedArm,
    check_budgets,
    check_losses,
    plan_arms,
    plan_rounds,
    token_files,
)
from inheritune.experiment.recovery import provisional, usable_memory
from inheritune.experiment.suite import ArmSettings, Suite
from inheritune.experiment.tasks import check_recipe_tasks
from inheritune.inheritance import check_function_preserving
from inheritune.recipe import Basis, Recipe, Training
from inheritune.runlog import check_trackers
from inheritune.runtime import Runtime
from inheritune.token_ids import vocabulary_size
from inheritune.training import SHARDED, check_compiler, check_float8, check_parallel

if TYPE_CHECKING:
    pass


def check_recipe(recipe: Recipe, runtime: Runtime) -> None:
    """Check that text, reference, tokenizer, trackers, tasks and the optimizer's packages are there and fit the recipe.

    Raises InputError with the problems of all of them together. Only when there are none are the targets built without
    weights, which takes a second or two and shows what a config does not.
    """

    def configs() -> None:
        nonlocal recipe
        models = Models(recipe, drafts=False)
        recipe, _ = provisional(recipe, models, usable_memory(runtime), _tokens(recipe))
        if recipe.train.distillation is not None:
            check_distillation(recipe.train.distillation, models.reference.vocab_size, "train.distillation.top_k")
        _check_rounds(recipe, models)

    _check_basis(recipe, runtime, configs, partial(check_recipe_tasks, recipe))
    _check_rounds(recipe, Models(recipe, drafts=True))


def plan_checked(suite: Suite, runtime: Runtime) -> list[PlannedArm]:
    """The arms of a suite, checked as `check_recipe` checks a recipe.

    Raises InputError with the problems of all arms, each with its arm's name.
    """
    _check_basis(suite, runtime)
    published = suite.published
    if published is not None and not set(published.values) & {"reference", *(arm.name for arm in suite.arms)}:
        raise InputError("published.values", "none of the names is an arm's", "name arms of the suite, or reference")
    models = Models(suite, drafts=True)

    def check(arm: ArmSettings, training: Training) -> None:
        _check_hardware(suite, training, runtime)
        check_filters(arm.data.filters if arm.data is not None else [])
        if training.distillation is not None:
            teacher = models.config_of(arm.teacher, "teacher")
            vocabulary = logits_width(build_skeleton(teacher, models.trust))
            check_distillation(training.distillation, vocabulary, "train.distillation.top_k")

    arms = plan_arms(suite, models, check)
    check_budgets(suite, arms, {})
    return arms


def _check_basis(basis: Basis, runtime: Runtime, *further: Callable[[], object]) -> None:
    """Raise InputError with the problems of text, reference, trackers and hardware, and of the checks `further`."""
    own: tuple[Callable[[], object], ...] = (
        partial(_check_text, basis),
        partial(_check_reference, basis),
        partial(check_trackers, basis.track),
        partial(_check_hardware, basis, basis.train, runtime),
    )
    check_all((*own, *further))


def _tokens(recipe: Recipe) -> int | None:
    return None if recipe.data.size is None else recipe.data.size.count


def _check_text(basis: Basis) -> None:
    list_inputs(basis.data.sources)
    check_filters(basis.data.filters)
    files = token_files(basis.data)
    if files is not None:
        list_token_files(files)
    elif basis.data.prepared is not None:
        open_prepared(basis.data.prepared)


def _check_reference(basis: Basis) -> None:
    place = basis.reference
    if place.train is not None:
        planned_config(place, basis.train.sequence_length)
        return
    config = load_config(place)
    load_generation_config(place)
    tokenizer = load_tokenizer(place)
    check_tokenizer_fits(tokenizer, config, place.tokenizer or place.title)
    check_positions(config, basis.train.sequence_length, "train.sequence_length")
    files = token_files(basis.data)
    if files is not None:
        typed(files, vocabulary_size(tokenizer))
    elif basis.data.prepared is not None:
        check_tokenizer(open_prepared(basis.data.prepared), tokenizer, "data.prepared")


def _check_hardware(basis: Basis, train: Training, runtime: Runtime) -> None:
    """What the device and the number of processes allow."""
    if train.compile is True:
        check_compiler(runtime.device)
    if train.precision == "float8":
        check_float8(runtime.device)
    new = basis.reference.train or basis.reference.tune
    check_parallel(basis.hardware.parallel, runtime)
    for optimizer in (train.optimizer, *([new.optimizer] if new is not None and new.optimizer else [])):
        optimizer.check_device(runtime.device)
        if runtime.world_size > 1 or basis.hardware.parallel in SHARDED:
            optimizer.check_shardable()


def _check_rounds(recipe: Recipe, models: Models) -> None:
    """Raise InputError for a round whose target cannot be built.

    Blocks that are still to be chosen are not checked, as the choice is among blocks that make a model.
    """
    _, stages = plan_rounds(recipe, models)
    reference = models.reference
    teacher = reference if recipe.train.needs_teacher else None
    for stage in stages:
        if not stage.is_provisional or len(stage.blocks) == layer_count(reference):
            check_losses(recipe.train, stage, reference, models.target(reference, stage), teacher)
    if models.drafts and stages[0].is_provisional and stages[0].function_preserving:
        check_function_preserving(build_skeleton(reference, models.trust))
