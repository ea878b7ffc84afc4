"""What can be found wrong before anything is computed, so that nobody waits an hour for a spelling mistake."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import yaml

from inheritune.arch import (
    check_positions,
    check_tokenizer_fits,
    load_config,
    load_generation_config,
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
    typed,
)
from inheritune.errors import InputError, Problem
from inheritune.limits import YAML_BYTES, check_yaml, read_text
from inheritune.recipe import Basis, TokenFiles, Training, changes, completed, dump_recipe
from inheritune.runlog import check_name, check_trackers
from inheritune.runtime import Runtime
from inheritune.training import check_compiler, check_float8, check_optimizer, check_shardable
from inheritune.vocabulary import vocabulary_size


def check_basis(basis: Basis, runtime: Runtime, further: Iterable[Callable[[], None]] = ()) -> None:
    """Check that text, reference, tokenizer, trackers and the optimizer's packages are there and fit each other.

    Raises InputError with the problems of all of them together, those that the checks `further` raise among them.
    """
    problems: list[Problem] = []
    own: list[Callable[[], None]] = [partial(part, basis) for part in (_check_text, _check_reference, _check_track)]
    own += [partial(check_hardware, basis, basis.train, runtime), *further]
    for look in own:
        try:
            look()
        except InputError as error:
            problems.extend(problem for problem in error.problems if problem not in problems)
    if problems:
        raise InputError.of(problems)


def _check_text(basis: Basis) -> None:
    list_inputs(basis.data.sources)
    check_filters(basis.data.filters)
    foreign = _token_files(basis)
    if foreign is not None:
        list_token_files(foreign)
    elif basis.data.prepared is not None:
        open_prepared(basis.data.prepared)


def _token_files(basis: Basis) -> TokenFiles | None:
    """Token files that are used as they are, however the recipe names them."""
    data = basis.data
    return data.tokens or (nanogpt_files(data.prepared) if data.prepared is not None else None)


def _check_reference(basis: Basis) -> None:
    new, place = basis.reference.train, basis.reference
    if new is not None:
        planned_config(place, basis.train.sequence_length)
        return
    config = load_config(place)
    load_generation_config(place)
    tokenizer = load_tokenizer(place)
    check_tokenizer_fits(tokenizer, config, place.tokenizer or place.title)
    check_positions(config, basis.train.sequence_length, "train.sequence_length")
    files = _token_files(basis)
    if files is not None:
        typed(files, vocabulary_size(tokenizer))
    elif basis.data.prepared is not None:
        check_tokenizer(open_prepared(basis.data.prepared), tokenizer, "data.prepared")


def _check_track(basis: Basis) -> None:
    check_trackers(basis.track)


def check_hardware(basis: Basis, train: Training, runtime: Runtime) -> None:
    """What the device and the number of processes allow."""
    if train.compile is True:
        check_compiler(runtime.device)
    if train.precision == "float8":
        check_float8(runtime.device)
    new = basis.reference.train
    for optimizer in (train.optimizer, *([new.optimizer] if new is not None and new.optimizer else [])):
        check_optimizer(optimizer, runtime.device)
        if runtime.processes > 1 or basis.hardware.parallel == "fsdp":
            check_shardable(optimizer)


def check_folder(folder: Path, file: str, wish: Basis, free: Sequence[str]) -> None:
    """Raise InputError when `folder` holds something else than the beginnings of `wish`, whose resolved form is kept
    there in `file`. What stands below the keys `free` may differ.
    """
    check_name(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), "is a file", "give another --out")
    if not folder.exists() or not any(not entry.name.startswith(".") for entry in folder.iterdir()):
        return
    saved, kind = folder / file, Path(file).stem
    if not saved.is_file():
        owner = "run" if kind == "recipe" else "comparison"
        raise InputError(str(folder), f"is not empty and not a {owner}'s folder", "give another --out")
    try:
        content = read_text(saved, YAML_BYTES)
        check_yaml(content, str(saved))
        before = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(
            str(saved), "is damaged, so that nothing says what is run here", "give another --out"
        ) from None
    changed = changes(completed(type(wish), before), yaml.safe_load(dump_recipe(wish)), free)
    if changed:
        raise InputError(
            str(folder),
            f"belongs to another {kind}: {', '.join(changed[:3])}",
            f"give another --out, or the {kind} it was begun with",
        )
