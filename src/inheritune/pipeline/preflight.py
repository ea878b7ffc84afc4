"""What can be found wrong before anything is computed, so that nobody waits an hour for a spelling mistake."""

from inheritune.arch import (
    build_skeleton,
    check_positions,
    check_tokenizer_fits,
    layer_count,
    load_config,
    load_tokenizer,
    new_config,
)
from inheritune.data import check_tokenizer, list_files, open_prepared
from inheritune.errors import InputError, Problem
from inheritune.growth import check_rounds, with_blocks
from inheritune.inheritance import check_silencing, draft
from inheritune.recipe import NewTokenizer, Recipe, Reference


def check_inputs(recipe: Recipe) -> None:
    """Check that text, reference and tokenizer are there and fit the recipe.

    Raises InputError with the problems of text and reference together.
    """
    problems: list[Problem] = []
    for check in (_check_text, _check_reference):
        try:
            check(recipe)
        except InputError as error:
            problems.extend(error.problems)
    if problems:
        raise InputError.of(problems)


def _check_text(recipe: Recipe) -> None:
    for source in recipe.data.sources:
        files = list_files(source)
        if not any(file.stat().st_size for file in files):
            raise InputError(f"data.sources: {source.title}", "no text: every file is empty", "give files with text")
    if recipe.data.prepared is not None:
        open_prepared(recipe.data.prepared)


def _check_reference(recipe: Recipe) -> None:
    new = recipe.reference.train
    if new is None:
        config = load_config(recipe.reference)
        total = layer_count(config)
        tokenizer = load_tokenizer(recipe.reference)
        check_tokenizer_fits(tokenizer, config, recipe.reference.tokenizer or recipe.reference.title)
        check_positions(config, recipe.train.sequence_length, "train.sequence_length")
        if recipe.data.prepared is not None:
            check_tokenizer(open_prepared(recipe.data.prepared), tokenizer, "data.prepared")
    else:
        if isinstance(new.tokenizer, NewTokenizer):
            vocabulary = new.tokenizer.vocabulary
        else:
            vocabulary = len(load_tokenizer(Reference(path=new.tokenizer)))
        config = new_config(new.model, vocabulary, {}, recipe.train.sequence_length)
        total = layer_count(config)
    skeleton = build_skeleton(config, recipe.reference.trust_remote_code)
    for kept in check_rounds(recipe.inherit, recipe.grow, total):
        made = draft(skeleton, with_blocks(recipe.inherit, kept), recipe.reference.trust_remote_code)
        if recipe.grow is not None and recipe.grow.silent:
            check_silencing(made.target)
