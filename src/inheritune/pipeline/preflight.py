"""What can be found wrong with a recipe before anything is computed."""

from inheritune.arch import build_skeleton, layer_count, planned_config
from inheritune.distillation import check_distillation
from inheritune.groundwork import check_basis
from inheritune.growth import check_rounds, is_measured
from inheritune.inheritance import check_function_preserving, draft_target, replace_budget, resolve, target_config
from inheritune.pipeline.tasks import check_recipe_tasks
from inheritune.recipe import Recipe
from inheritune.runtime import Runtime


def check_inputs(recipe: Recipe, runtime: Runtime) -> None:
    """Check that text, reference, tokenizer, trackers, tasks and the optimizer's packages are there and fit the recipe.

    Raises InputError with the problems of all of them together; what only the model itself can show is looked at when
    there are none, as building it takes a second or two.
    """
    check_basis(recipe, runtime, [lambda: _check_configs(recipe), lambda: check_recipe_tasks(recipe)])
    _check_rounds(recipe)


def _check_configs(recipe: Recipe) -> None:
    """Shorten the reference's config for every round that there may be."""
    config = planned_config(recipe.reference, recipe.train.sequence_length)
    total = layer_count(config)
    if recipe.train.distillation is not None:
        check_distillation(recipe.train.distillation, config.vocab_size, "train.distillation.top_k")
    inherit = replace_budget(config, recipe.inherit, recipe.reference.trust_remote_code)
    for kept in check_rounds(inherit, recipe.grow, total):
        if not is_measured(inherit):  # those are chosen among blocks that make a model
            target_config(config, resolve(inherit, config, kept))


def _check_rounds(recipe: Recipe) -> None:
    """Draft the target of every round that there may be."""
    place = recipe.reference
    config = planned_config(place, recipe.train.sequence_length)
    skeleton = build_skeleton(config, place.trust_remote_code)
    inherit = replace_budget(config, recipe.inherit, place.trust_remote_code)
    if is_measured(inherit) and recipe.grow is not None and recipe.grow.function_preserving:
        check_function_preserving(skeleton)
    for kept in check_rounds(inherit, recipe.grow, layer_count(config)):
        if is_measured(inherit) and len(kept) < layer_count(config):
            continue
        made = draft_target(skeleton, resolve(inherit, config, kept), place.trust_remote_code)
        if recipe.grow is not None and recipe.grow.function_preserving:
            check_function_preserving(made.target)
