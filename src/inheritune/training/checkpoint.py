"""Checkpoints: whole and checked, or not there. Everything in them is safetensors and JSON; nothing is pickled."""

import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.errors import RunError
from inheritune.runlog import checksum, new_folder, read_json, write_json
from inheritune.runtime import random_state, restore_random_state

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"^step-(\d{9})$")


@dataclass(frozen=True)
class Position:
    """Where a training stands: optimizer steps done, the seconds they took, and the seconds with validation and
    checkpoints.
    """

    step: int = 0
    seconds: float = 0.0
    wall_seconds: float = 0.0


def save_checkpoint(
    folder: Path,
    position: Position,
    model: "torch.nn.Module",
    optimizer: "torch.optim.Optimizer",
    device: str,
    keep: int,
) -> None:
    """Write `folder`/step-N with weights, optimizer, random state and checksums; drop the oldest beyond `keep`.

    Raises RunError when it cannot be written; what was there before stays as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = folder / f"step-{position.step:09d}"
    try:
        with new_folder(target) as partial:
            save_file(_model_tensors(model), str(partial / "model.safetensors"))
            save_file(_optimizer_tensors(model, optimizer), str(partial / "optimizer.safetensors"))
            save_file(random_state(device), str(partial / "random.safetensors"))
            sums = {file.name: checksum(file) for file in sorted(partial.iterdir())}
            write_json(partial / "checkpoint.json", {"position": asdict(position), "checksums": sums})
    except SafetensorError as error:
        raise RunError(
            str(target),
            f"the checkpoint cannot be written ({error}); the one before it is good",
            "make room, then run again",
        ) from None
    for old in sorted(list_checkpoints(folder))[:-keep]:
        shutil.rmtree(folder / f"step-{old:09d}")


def list_checkpoints(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, rising."""
    if not folder.is_dir():
        return []
    return sorted(int(found[1]) for path in folder.iterdir() if (found := _NAME.match(path.name)))


def restore_newest(
    folder: Path, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer", warn: Callable[[str], None]
) -> Position:
    """Load the newest checkpoint that is whole into model and optimizer, and say where it stands.

    A damaged one is named through `warn` and removed, and the one before it is tried. Without any, position 0.
    """
    for step in reversed(list_checkpoints(folder)):
        target = folder / f"step-{step:09d}"
        fault = _fault(target)
        if fault is None:
            return _restore(target, model, optimizer)
        warn(f"checkpoint {target} is damaged ({fault}); going back to the one before")
        shutil.rmtree(target)
    return Position()


def _fault(target: Path) -> str | None:
    try:
        sums: dict[str, str] = read_json(target / "checkpoint.json")["checksums"]
    except (OSError, RunError, KeyError, TypeError):
        return "checkpoint.json cannot be read"
    for name, expected in sums.items():
        if not (target / name).is_file():
            return f"{name} is missing"
        if checksum(target / name) != expected:
            return f"{name} has changed"
    return None


def _restore(target: Path, model: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> Position:
    import torch
    from safetensors.torch import load_file

    # Values are copied into memory of torch's own: matrix products on memory-mapped, differently aligned memory
    # may round differently, and the run would not end with the same bits.
    tensors = model.state_dict()
    with torch.no_grad():
        for name, value in load_file(target / "model.safetensors").items():
            tensors[name].copy_(value)
    named = dict(model.named_parameters())
    for key, value in load_file(target / "optimizer.safetensors").items():
        name, _, field = key.rpartition("/")
        state: dict[str, Any] = optimizer.state[named[name]]
        device = "cpu" if value.dim() == 0 and named[name].device.type == "cpu" else named[name].device
        state[field] = value.to(device).clone(memory_format=torch.preserve_format)
    restore_random_state({name: value.clone() for name, value in load_file(target / "random.safetensors").items()})
    return Position(**read_json(target / "checkpoint.json")["position"])


def _model_tensors(model: "torch.nn.Module") -> dict[str, "torch.Tensor"]:
    """Parameters and persistent buffers, a shared tensor once."""
    tensors, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen or tensor.numel() == 0:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.contiguous()
    return tensors


def _optimizer_tensors(model: "torch.nn.Module", optimizer: "torch.optim.Optimizer") -> dict[str, "torch.Tensor"]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for field, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{field}"] = value.contiguous()
    return tensors
