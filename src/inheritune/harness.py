"""lm-evaluation-harness: which tasks it has, whether a task file is trusted, loading tasks with their data."""

import contextlib
import difflib
import importlib.metadata
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from inheritune.errors import InherituneError, InputError
from inheritune.limits import check_yaml_file


def version() -> str:
    """The version of the installed lm-eval."""
    return importlib.metadata.version("lm-eval")


def check_tasks(
    names: Iterable[str], place: str, trusted: bool, folder: Path | None = None, further: Iterable[str] = ()
) -> None:
    """Check the names of tasks and groups, and task files (.yaml) by their paths, before any data is read.

    `folder` holds the user's own task files, whose names are then legal too; `further` are names that the caller knows.
    Raises InputError for an unknown name (with the nearest ones), for a task file or a folder of them that is not
    `trusted`, and where lm-eval is not installed.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise InputError(place, "lm-eval is not installed", "pip install 'inheritune[eval]'")
    for own in [*([folder] if folder is not None else []), *(Path(name) for name in names if Path(name).is_file())]:
        if not trusted:  # not only `!function` runs code: the harness's templates are not confined
            kind = "a folder of task files" if own.is_dir() else "a task file"
            what = f"{own} is {kind}, which may name code that is then run"
            raise InputError(place, what, "look at it, then set trust_task_files (--trust-task-files)")
        if own.is_file():
            check_yaml_file(own)
    if folder is not None:
        _check_folder(folder)
    known = {*task_manager(folder).all_tasks, *further}
    for name in names:
        if name not in known and not Path(name).is_file():
            near = difflib.get_close_matches(name, known, n=3)
            raise InputError(
                place,
                f"lm-evaluation-harness has no task {name!r}",
                f"did you mean {' or '.join(near)}?" if near else "see `lm-eval ls tasks`",
            )


def _check_folder(folder: Path) -> None:
    """Raise InputError where `folder` has no task files, or one that is no YAML: the harness would ignore it."""
    from lm_eval.tasks._yaml_loader import load_yaml

    files = sorted(folder.rglob("*.yaml")) if folder.is_dir() else []
    if not files:
        raise InputError(str(folder), "no folder with task files (*.yaml)", "give a folder that has some")
    for file in files:
        check_yaml_file(file)
        try:
            load_yaml(file, resolve_func=False)
        except Exception as error:  # damaged in whatever way
            raise InputError(str(file), f"not a task file ({_first_line(error)})", "correct it, or remove it") from None


def from_files(names: Iterable[str], folder: Path | None) -> list[str]:
    """The names of task files, or of tasks in `folder`, which may replace the harness's own."""
    index = task_manager(folder).task_index
    inside = None if folder is None else folder.resolve()

    def is_own(name: str) -> bool:
        file = index[name].yaml_path if name in index else None
        return name not in index or (inside is not None and file is not None and file.resolve().is_relative_to(inside))

    return [name for name in names if is_own(name)]


@lru_cache(maxsize=2)
def task_manager(folder: Path | None = None) -> Any:
    """All tasks by name, with those in `folder`. Cached, as it reads thousands of files."""
    with silenced():
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=None if folder is None else str(folder))


def load_task(name: str, place: str, folder: Path | None = None) -> dict[str, Any]:
    """A task, or the tasks of a group, with their data: {"tasks": {name: task}, "groups": {name: group}}.

    Raises InputError where the data is not available.
    """
    manager = task_manager(folder)
    with data_errors(name, place), silenced():
        tasks: dict[str, Any] = manager.load([name])
    return tasks


@contextlib.contextmanager
def data_errors(name: str, place: str) -> Iterator[None]:
    """Turn errors of a task's data into InputError."""
    try:
        yield
    except InherituneError:
        raise
    except Exception as error:  # a task's data come from any library and any network
        raise InputError(
            place,
            f"the data of the task {name} cannot be had ({type(error).__name__}: {_first_line(error)})",
            "run once with a network, to fill Hugging Face's cache, or use data on this machine",
        ) from None


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Hide the output, logs and warnings of the harness and its libraries. Errors are raised as usual."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]
