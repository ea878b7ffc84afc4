"""What a folder was begun with: a training or growth continues only what was asked for, and one process at a time."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.errors import DamagedFile, InputError
from inheritune.inheritance import check_free
from inheritune.recipe import Training, changes, completed, with_new_names
from inheritune.runlog import check_name, locked, read_mapping, write_json
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_REQUEST = "request.json"
_FREE = ("micro_batch", "checkpoint")  # settings of a training that may change when it is resumed


def asked(training: Training) -> dict[str, Any]:
    """What a training must be asked for again to go on."""
    return {"train": training.model_dump(mode="json", exclude=set(_FREE))}


def identity(model: "PreTrainedModel | str | Path") -> str:
    """Tells one model from another: its place, or of a loaded one a hash of the names and sums of its tensors."""
    if isinstance(model, str | Path):
        return str(Path(model))  # however often its slashes are written
    sums = [f"{name} {tensor.double().sum().item()!r}" for name, tensor in model.state_dict().items()]
    return hashlib.sha256("\n".join(sums).encode()).hexdigest()


@contextmanager
def only_job(folder: Path, runtime: Runtime) -> Iterator[None]:
    """Inside, no other job works in the folder. Raises InputError where one does."""
    with ExitStack() as held:
        runtime.on_rank0(lambda: held.enter_context(locked(folder)))
        yield


@contextmanager
def begun(out: Path, request: dict[str, Any], runtime: Runtime) -> Iterator[None]:
    """Work on a request in `out` alone; request.json there says what it is. Raises InputError as `check_request` does,
    and where another process is at work.
    """

    def begin() -> None:
        check_request(out, request)
        write_json(out / _REQUEST, request)

    with only_job(out, runtime):
        runtime.on_rank0(begin)
        yield


def check_request(out: Path, request: dict[str, Any]) -> None:
    """Raise InputError where `out` holds something else than the beginnings of this request."""
    check_name(out)
    marker = out / _REQUEST
    if not marker.exists():
        check_free(out)
        return
    try:
        before = read_mapping(marker)
    except DamagedFile:
        raise InputError(
            str(marker), "is damaged, so that nothing says what is trained here", "give another folder"
        ) from None
    if isinstance(before.get("train"), dict):
        known = completed(Training, before["train"] | {"micro_batch": "auto", "checkpoint": {}})
        before["train"] = {key: value for key, value in known.items() if key not in _FREE}
    before = with_new_names(before)
    before.setdefault("prefix", [])  # before there was one
    changed = changes({key: value for key, value in before.items() if key in request}, request)
    if changed:
        raise InputError(
            str(out),
            f"belongs to another training: {', '.join(changed[:3])}",
            "give another folder, or the model, data and settings it was begun with",
        )
