"""Whether a teacher's outputs are stored or computed online: plain arithmetic over seconds and bytes."""

from dataclasses import dataclass
from typing import Literal

_DISK_RATE = 0.3e9  # bytes a second that outputs are taken to be written and read with
_SHARE = 0.5  # of the free disk that `auto` takes at most


@dataclass(frozen=True)
class Estimate:
    """What both ways would cost.

    `sequences` are those of the training text, `uses` how many all trainings together see, `seconds` how long the
    teacher takes for one, `bytes` how much its outputs for one take on the disk, `free` the bytes there.
    """

    sequences: int
    uses: int
    seconds: float
    bytes: int
    free: int

    @property
    def size(self) -> int:
        """Bytes of all outputs."""
        return self.sequences * self.bytes

    @property
    def online_seconds(self) -> float:
        """The teacher passes every sequence as often as it is seen."""
        return self.uses * self.seconds

    @property
    def stored_seconds(self) -> float:
        """The teacher passes every sequence once; its outputs are written once, and read as often as they are seen."""
        return self.sequences * self.seconds + (self.sequences + self.uses) * self.bytes / _DISK_RATE

    @property
    def choice(self) -> Literal["stored", "online"]:
        """What takes less time, as long as stored outputs leave half of the free disk."""
        fits = self.size <= _SHARE * self.free
        return "stored" if fits and self.stored_seconds < self.online_seconds else "online"

    def __str__(self) -> str:
        """The arithmetic in words."""
        online = f"online {self.uses:,} sequences x {self.seconds:.3g} s = {self.online_seconds:,.3g} s"
        stored = (
            f"stored {self.sequences:,} x {self.seconds:.3g} s, and {in_bytes(self.size)} written once and"
            f" {in_bytes(self.uses * self.bytes)} read at {in_bytes(_DISK_RATE)} a second"
            f" = {self.stored_seconds:,.3g} s ({in_bytes(self.free)} free)"
        )
        return f"{online}; {stored}: {self.choice}"


def in_bytes(count: float) -> str:
    """`1.5 GB` for 1,500,000,000."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} bytes"
