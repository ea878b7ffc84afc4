"""A run's folder in place of a model: its reference, its result, and the text that both were judged on."""

from dataclasses import dataclass
from pathlib import Path

from inheritune.errors import InputError
from inheritune.recipe import Recipe, Reference, load_recipe
from inheritune.results import RunSummary


@dataclass(frozen=True)
class EvaluatedRun:
    """A run with its trained models."""

    folder: Path
    recipe: Recipe
    reference: Reference
    result: Reference


def open_run(folder: Path) -> EvaluatedRun | None:
    """A run's folder; None where it is something else. Raises InputError for a run that has no result yet."""
    recipe_file, summary = folder / "recipe.yaml", folder / "summary.json"
    if not recipe_file.is_file() or (folder / "config.json").exists():
        return None
    recipe = load_recipe(recipe_file, saved=True)
    if not summary.is_file():
        raise InputError(str(folder), "a run without a result yet", "let it finish a round first: `inheritune run`")
    model = RunSummary.read(summary).result.model
    reference = trained_reference(recipe.reference, folder / "reference")
    result = Reference(path=str(folder / model), trust_remote_code=recipe.reference.trust_remote_code)
    return EvaluatedRun(folder, recipe, reference, result)


def trained_reference(reference: Reference, folder: Path) -> Reference:
    """The reference with the weights that were trained for it in `folder`; itself where there are none."""
    made = folder / "model"
    if reference.train is None and not made.is_dir():
        return reference
    return Reference(path=str(made), trust_remote_code=reference.trust_remote_code)
