"""Folders of results: each belongs to one request, and one process at a time works in it."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from inheritune.errors import DamagedFile, InputError
from inheritune.inheritance import check_free
from inheritune.limits import YAML_BYTES, check_yaml, read_text
from inheritune.recipe import Basis, Training, changes, completed, dump_recipe, with_new_names
from inheritune.runlog import check_name, locked, logger, note_start, read_mapping, write_json, write_text
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Result = TypeVar("Result")
_REQUEST = "request.json"
_FREE = ("micro_batch", "checkpoint")  # settings of a training that may change when it is resumed


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys[:-1]) + f" and {keys[-1]}"


def asked(training: Training) -> dict[str, Any]:
    """The settings that a training must have again to be resumed."""
    return {"train": training.model_dump(mode="json", exclude=set(_FREE))}


def identity(model: "PreTrainedModel | str | Path") -> str:
    """Tells models apart: the path, or for a loaded model a hash of the names and sums of its tensors."""
    if isinstance(model, str | Path):
        return str(Path(model))  # however its slashes are written
    sums = [f"{name} {tensor.double().sum().item()!r}" for name, tensor in model.state_dict().items()]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


@contextmanager
def only_job(folder: Path, runtime: Runtime, wait: bool = False) -> Iterator[None]:
    """Inside, no other job works in the folder. With `wait`, waits for one that does; else raises InputError."""
    with ExitStack() as held:
        runtime.on_rank0(lambda: held.enter_context(locked(folder, wait)))
        yield


@contextmanager
def begun(out: Path, request: dict[str, Any], runtime: Runtime, wait: bool = False) -> Iterator[None]:
    """Inside, this job alone works on the request in `out`, and request.json there records the request.

    Raises InputError as `check_request` and `only_job` do.
    """

    def begin() -> None:
        check_request(out, request)
        write_json(out / _REQUEST, request)

    with only_job(out, runtime, wait):
        runtime.on_rank0(begin)
        yield


def check_request(out: Path, request: dict[str, Any]) -> None:
    """Raise InputError where `out` holds anything but an earlier start of this request."""
    check_name(out)
    marker = out / _REQUEST
    if not marker.exists():
        check_free(out)
        return
    try:
        before = read_mapping(marker)
    except DamagedFile:
        what = "is damaged, so that nothing says what is trained here"
        raise InputError(str(marker), what, "give another folder") from None
    if isinstance(before.get("train"), dict):
        known = completed(Training, before["train"] | {"micro_batch": "auto", "checkpoint": {}})
        before["train"] = {key: value for key, value in known.items() if key not in _FREE}
    before = with_new_names(before)
    before.setdefault("prefix", [])  # of versions that had none
    changed = changes({key: value for key, value in before.items() if key in request}, request)
    if changed:
        raise InputError(
            str(out), f"belongs to another training: {', '.join(changed[:3])}",
            "give another folder, or the model, data and settings it was started with"
            f" (only {_listed(_FREE)} may differ)",
        )  # fmt: skip


@contextmanager
def opened(
    folder: Path, file: str, asked_for: Basis, free: Sequence[str], check: Callable[[], Result], runtime: Runtime
) -> Iterator[Result]:
    """Inside, this job alone works on a recipe or suite in `folder`; yields what `check` returns.

    Its resolved form is kept there in `file`, and this start is recorded in manifest.json. `check` looks for mistakes
    before anything is written. Raises InputError as `check_folder` does.
    """

    def check_all() -> Result:
        check_folder(folder, file, asked_for, free)
        return check()

    def begin() -> list[str]:
        check_folder(folder, file, asked_for, free)  # again, as another process may have begun there
        write_text(folder / file, dump_recipe(asked_for))
        facts = {**runtime.describe(), "seed": asked_for.seed, "micro_batch": asked_for.train.micro_batch}
        return note_start(folder / "manifest.json", facts)

    checked = runtime.on_rank0(check_all)
    with only_job(folder, runtime):
        for difference in runtime.on_rank0(begin):
            logger.warning(f"{difference}: the result may differ from an uninterrupted one's in the last bits")
        yield checked


def check_folder(folder: Path, file: str, asked_for: Basis, free: Sequence[str]) -> None:
    """Raise InputError where `folder` holds anything but an earlier start of this recipe or suite.

    Its resolved form is in `file` there. The settings under the keys `free` may differ.
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
        what = "is damaged, so that nothing says what is run here"
        raise InputError(str(saved), what, "give another --out") from None
    changed = changes(completed(type(asked_for), before), yaml.safe_load(dump_recipe(asked_for)), free)
    if changed:
        raise InputError(
            str(folder), f"belongs to another {kind}: {', '.join(changed[:3])}",
            f"give another --out, or the {kind} it was started with (only {_listed(free)} may differ)",
        )  # fmt: skip
