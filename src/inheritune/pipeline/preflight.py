"""What can be found wrong before anything is computed, so that nobody waits an hour for a spelling mistake."""

from functools import partial

from inheritune.arch import (
    build_skeleton,
    check_positions,
    check_tokenizer_fits,
    layer_count,
    load_config,
    load_tokenizer,
    planned_config,
)
from inheritune.data import (
    check_filters,
    check_tokenizer,
    list_inputs,
    list_token_files,
    nanogpt_files,
    open_prepared,
)
from inheritune.distillation import check_distillation
from inheritune.errors import InputError, Problem
from inheritune.growth import check_rounds, with_blocks
from inheritune.inheritance import check_silencing, draft, target_config
from inheritune.recipe import Recipe, TokenFiles
from inheritune.runlog import check_trackers
from inheritune.runtime import Runtime
from inheritune.training import check_compiler, check_float8, check_optimizer, check_shardable


def check_inputs(recipe: Recipe, runtime: Runtime) -> None:
    """Check that text, reference, tokenizer, trackers and the optimizer's packages are there and fit the recipe.

    Raises InputError with the problems of text, reference and trackers together; what only the model itself can show
    is looked at when there are none, as building it takes a second or two.
    """
    problems: list[Problem] = []
    for check in (_check_text, _check_reference, _check_track, partial(_check_hardware, runtime)):
        try:
            check(recipe)
        except InputError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise InputError.of(problems)
    _check_rounds(recipe)


def _check_text(recipe: Recipe) -> None:
    list_inputs(recipe.data.sources)
    check_filters(recipe.data.filters)
    foreign = _token_files(recipe)
    if foreign is not None:
        list_token_files(foreign)
    elif recipe.data.prepared is not None:
        open_prepared(recipe.data.prepared)


def _token_files(recipe: Recipe) -> TokenFiles | None:
    """Token files that are used as they are, however the recipe names them."""
    data = recipe.data
    return data.tokens or (nanogpt_files(data.prepared) if data.prepared is not None else None)


def _check_reference(recipe: Recipe) -> None:
    new = recipe.reference.train
    if new is None:
        config = load_config(recipe.reference)
        total = layer_count(config)
        tokenizer = load_tokenizer(recipe.reference)
        check_tokenizer_fits(tokenizer, config, recipe.reference.tokenizer or recipe.reference.title)
        check_positions(config, recipe.train.sequence_length, "train.sequence_length")
        if recipe.data.prepared is not None and _token_files(recipe) is None:
            check_tokenizer(open_prepared(recipe.data.prepared), tokenizer, "data.prepared")
    else:
        config = planned_config(recipe.reference, recipe.train.sequence_length)
        total = layer_count(config)
    if recipe.train.distillation is not None:
        check_distillation(recipe.train.distillation, config.vocab_size, "train.distillation.top_k")
    for kept in check_rounds(recipe.inherit, recipe.grow, total):
        target_config(config, with_blocks(recipe.inherit, kept), total)


def _check_track(recipe: Recipe) -> None:
    check_trackers(recipe.track)


def _check_hardware(runtime: Runtime, recipe: Recipe) -> None:
    """What the device and the number of processes allow."""
    if recipe.train.compile is True:
        check_compiler(runtime.device)
    if recipe.train.precision == "float8":
        check_float8(runtime.device)
    new = recipe.reference.train
    for optimizer in (recipe.train.optimizer, *([new.optimizer] if new is not None and new.optimizer else [])):
        check_optimizer(optimizer, runtime.device)
        if runtime.processes > 1 or recipe.hardware.parallel == "fsdp":
            check_shardable(optimizer)


def _check_rounds(recipe: Recipe) -> None:
    """Draft the target of every round that there may be."""
    place = recipe.reference
    config = planned_config(place, recipe.train.sequence_length)
    skeleton = build_skeleton(config, place.trust_remote_code)
    for kept in check_rounds(recipe.inherit, recipe.grow, layer_count(config)):
        made = draft(skeleton, with_blocks(recipe.inherit, kept), place.trust_remote_code)
        if recipe.grow is not None and recipe.grow.silent:
            check_silencing(made.target)
