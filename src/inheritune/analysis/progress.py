"""The drops that a choice of blocks has made so far, saved after each, so that an interrupted choice resumes."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inheritune.errors import DamagedFile
from inheritune.results import Dropped
from inheritune.runlog import read_json, write_json

_FORMAT = 2


@dataclass
class Progress:
    """The state of the search for blocks, which is saved in `file` if there is one.

    `drops` are the blocks dropped so far, with their losses. `promises` are the increases of the loss when each block
    was last tried, and `trials` is the number of trials. Hidden states and the weights of a recovery are computed again
    from them.
    """

    file: Path | None = None
    fingerprint: str = ""
    drops: list[Dropped] = field(default_factory=list)
    promises: dict[int, float] = field(default_factory=dict)
    trials: int = 0
    seconds_before: float = 0.0
    """The time of earlier attempts, up to the last drop."""
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The time that the choice has taken, over all attempts."""
        return self.seconds_before + time.monotonic() - self.began

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.file is None:
            return
        promises = {str(block): _as_json(value) for block, value in self.promises.items()}
        drops = [{name: _as_json(value) for name, value in one.model_dump().items()} for one in self.drops]
        content = {"format": _FORMAT, "fingerprint": self.fingerprint, "drops": drops}
        write_json(
            self.file, content | {"promises": promises, "trials": self.trials, "seconds": round(self.seconds, 1)}
        )

    def describe(self) -> str:
        """What an interrupted choice has saved, and how to resume it."""
        count = len(open_progress(self.file, self.fingerprint).drops)  # a signal may come before the last one is saved
        if not count:
            return "nothing of the choice is kept: the same command begins it anew"
        drops = "the first drop is" if count == 1 else f"the first {count} drops are"
        return f"{drops} kept in {self.file}: run the same command again to resume"


def _as_json(value: Any) -> Any:
    """JSON has no infinite numbers and no NaN, so these are written as text."""
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def open_progress(file: Path | None, fingerprint: str) -> Progress:
    """The progress in `file`, or a new one where there is no file, or that of a choice with another fingerprint.

    Raises DamagedFile.
    """
    if file is None or not file.exists():
        return Progress(file, fingerprint)
    content = read_json(file)
    try:
        if content["format"] != _FORMAT or content["fingerprint"] != fingerprint:
            return Progress(file, fingerprint)
        drops = [Dropped.model_validate(one) for one in content["drops"]]
        promises = {int(block): float(value) for block, value in content["promises"].items()}
        return Progress(file, fingerprint, drops, promises, int(content["trials"]), float(content["seconds"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedFile(str(file), "not what a choice of blocks saves", "delete it; the choice begins anew") from None
