"""The rate that the last dry run on this machine has measured: `plan` knows it as one more device."""

import datetime
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from inheritune.errors import DamagedFile
from inheritune.planner.devices import USABLE, Device, by_cuda_name, processor
from inheritune.runlog import logger, read_json, write_json


@dataclass(frozen=True)
class MeasuredRate:
    """FLOP/s of a training, of which model, on which machine and day; `gpu` is CUDA's name of the GPU, if it was one.

    `memory` is the peak memory of the measurement in bytes.
    """

    flops_per_second: float
    of: str
    gpu: str | None
    memory: float
    host: str
    date: str

    @property
    def device(self) -> Device:
        """The device of the table that this is, with the measured rate."""
        known = processor() if self.gpu is None else by_cuda_name(self.gpu)
        if known is None:
            rate = self.flops_per_second  # all that is known of it: so much memory was enough
            known = Device(str(self.gpu), rate, rate, self.memory / USABLE, 0.0, (1.0, 1.0))
        return replace(known, name=f"{known.name}, measured", measured=self.flops_per_second)

    def remember(self) -> None:
        """Keep it for `remembered_rate`. A folder that cannot be written is a warning."""
        try:
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_json(_file(), asdict(self))
        except OSError as error:
            logger.warning(f"{_file()}: the measured rate cannot be remembered ({error.strerror})")


def measured_here(flops_per_second: float, facts: Mapping[str, Any], of: str, memory: float) -> MeasuredRate:
    """What was measured just now; `facts` are those of `Runtime.describe`."""
    today = datetime.date.today().isoformat()
    return MeasuredRate(flops_per_second, of, facts.get("gpu"), memory, platform.node(), today)


def remembered_rate() -> MeasuredRate | None:
    """The rate of the last dry run on this machine; None where there was none."""
    try:
        found = MeasuredRate(**read_json(_file()))
    except (OSError, DamagedFile, TypeError):
        return None
    return found if found.host == platform.node() and found.flops_per_second > 0 else None


def _file() -> Path:
    return Path(os.environ.get("INHERITUNE_CACHE") or "~/.cache/inheritune").expanduser() / "measured-rate.json"
