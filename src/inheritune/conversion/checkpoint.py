"""From a training's checkpoint, which holds tensors by name, to a Hugging Face checkpoint.

The rest of it (config, generation config, tokenizer) is kept beside the checkpoints, in frame/.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inheritune.arch import build_empty, frame_config, parameter_count, save_frame, save_model
from inheritune.errors import InherituneError, InputError
from inheritune.inheritance import free_output
from inheritune.runtime import Runtime
from inheritune.training import fault_of, is_checkpoint, model_tensors, read_facts, read_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_FRAME = "frame"


@dataclass(frozen=True)
class ExportedCheckpoint:
    """A checkpoint that was exported: its step, its validation loss (None but for best), the model's parameters."""

    step: int
    val_loss: float | None
    parameters: int


def keep_frame(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", checkpoints: Path) -> None:
    """Write what `export` needs besides a checkpoint, into the folder of a training's checkpoints, once."""
    if not (checkpoints / _FRAME).exists():
        save_frame(model, tokenizer, checkpoints / _FRAME)


def export(
    checkpoint: str | Path, out: str | Path, *, trust_remote_code: bool = False
) -> "tuple[PreTrainedModel, ExportedCheckpoint]":
    """Write a training's checkpoint, such as checkpoints/best, to `out` as a Hugging Face checkpoint.

    Returns the model, in float32 on the CPU, and what it is. The weights are those of the step,
    bit for bit. `trust_remote_code` runs the model's own code, where it has some.

    Raises InputError when `checkpoint` is no checkpoint, is damaged or has no frame beside it, and when `out` exists;
    RunError when the disk is full.
    """
    place = Path(checkpoint)
    with free_output(Path(out)) as target:
        check_checkpoint(place)
        frame = place.resolve().parent / _FRAME
        config = frame_config(frame, trust_remote_code)
        model = build_empty(config, torch.float32, trust_remote_code)
        facts = _read(place, model)
        save_model(model, None, target, frame=frame)
    step = facts["step"] if "step" in facts else facts["position"]["step"]
    return model.eval(), ExportedCheckpoint(step, facts.get("val_loss"), parameter_count(model))


def check_checkpoint(place: Path) -> None:
    """Raise InputError for anything but a whole checkpoint with a frame beside it."""
    if not is_checkpoint(place):
        known = [folder for at in (place, place / "checkpoints") for folder in _checkpoints_in(at)]
        remedy = f"one of {', '.join(map(str, known))}" if known else "one, such as TRAINING/checkpoints/best"
        raise InputError(str(place), "is not a checkpoint of a training", f"give {remedy}")
    fault = fault_of(place)
    if fault is not None:
        others = [str(folder) for folder in _checkpoints_in(place.parent) if folder != place]
        remedy = f"give another one: {', '.join(others)}" if others else "there is no other one beside it"
        raise InputError(str(place), f"is damaged ({fault})", remedy)
    if not (place.resolve().parent / _FRAME).is_dir():
        what = f"there is no {_FRAME}/ with the model's config and tokenizer beside it"
        raise InputError(str(place), what, f"leave it in its training's checkpoints/, or copy {_FRAME}/ along")


def _read(place: Path, model: "PreTrainedModel") -> dict[str, Any]:
    """Fill the model and return the checkpoint's facts.

    Raises InputError where a running training removed or replaced the checkpoint meanwhile.
    """
    facts = read_facts(place)
    fault: InherituneError | OSError | None = None
    try:
        read_tensors(place, model_tensors(model), Runtime("cpu", 1))
    except (InherituneError, OSError) as error:
        fault = error
    if not is_checkpoint(place) or read_facts(place) != facts:
        what = "was taken away or replaced by its training while it was read"
        raise InputError(str(place), what, "export it again, or another one")
    if fault is not None:
        raise fault
    return facts


def _checkpoints_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and is_checkpoint(entry))
