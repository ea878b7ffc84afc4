"""The drops that a choice of blocks has made so far, saved after each, so that an interrupted choice resumes."""

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.errors import DamagedFile, Interrupted
from inheritune.runlog import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from inheritune.data import Rows
    from inheritune.recipe import Inherit

_FORMAT = 1


@dataclass(frozen=True)
class Dropped:
    """A block of the order: `loss` is that of the blocks left, `increase` what dropping it added, in nats a token; None
    where they were not measured.
    """

    block: int
    loss: float | None = None
    increase: float | None = None


@dataclass
class Progress:
    """What the search for blocks has found so far. With a `file` it is saved there; without one nothing is kept.

    `drops` are the blocks dropped so far, with their losses. `promises` are the increases of the loss when each block
    was last tried, and `trials` is the number of trials. They are all that the search remembers: hidden states and the
    weights of a recovery are computed again from them.
    """

    file: Path | None = None
    fingerprint: str = ""
    drops: list[Dropped] = field(default_factory=list)
    promises: dict[int, float] = field(default_factory=dict)
    trials: int = 0
    seconds_before: float = 0.0
    """The time that earlier starts took, up to the last drop."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The time that the choice has taken, over all starts."""
        return self.seconds_before + time.monotonic() - self.began

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.file is None:
            return
        promises = {str(block): _as_json(value) for block, value in self.promises.items()}
        drops = [{name: _as_json(value) for name, value in asdict(one).items()} for one in self.drops]
        content = {"format": _FORMAT, "fingerprint": self.fingerprint, "drops": drops}
        write_json(
            self.file, content | {"promises": promises, "trials": self.trials, "seconds": round(self.seconds, 1)}
        )

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside, Ctrl-C and SIGTERM raise Interrupted, which says what of the choice is kept."""
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(f"choosing blocks: interrupted; {self._kept()}") from None

    def _kept(self) -> str:
        count = len(open_progress(self.file, self.fingerprint).drops)  # a signal may come before the last one is saved
        if not count:
            return "nothing of the choice is kept: the same command begins it anew"
        drops = "the first drop is" if count == 1 else f"the first {count} drops are"
        return f"{drops} kept in {self.file}: run the same command again to resume"


def _as_json(value: Any) -> Any:
    """JSON has no numbers that are not finite, and a block whose loss is not a number must stay what it is."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def open_progress(file: Path | None, fingerprint: str) -> Progress:
    """What `file` holds of the choice with this fingerprint; nothing where there is no file, or of another choice.

    Raises DamagedFile for one that is damaged.
    """
    if file is None or not file.exists():
        return Progress(file, fingerprint)
    content = read_json(file)
    try:
        if content["format"] != _FORMAT or content["fingerprint"] != fingerprint:
            return Progress(file, fingerprint)
        drops = [Dropped(int(one["block"]), float(one["loss"]), float(one["increase"])) for one in content["drops"]]
        promises = {int(block): float(value) for block, value in content["promises"].items()}
        return Progress(file, fingerprint, drops, promises, int(content["trials"]), float(content["seconds"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedFile(str(file), "not what a choice of blocks saves", "delete it; the choice begins anew") from None


def fingerprint_of(model: "PreTrainedModel", rows: "Rows", spec: "Inherit", **settings: Any) -> str:
    """A hash of all that a choice depends on: config and weights of the model, calibration text, what is asked for."""
    import torch

    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(np.ascontiguousarray(rows.windows).tobytes())
    digest.update(repr((rows.packing, spec.model_dump(mode="json"), sorted(settings.items()))).encode())
    return digest.hexdigest()
