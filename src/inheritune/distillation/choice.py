"""Whether a teacher's outputs are stored or computed online: plain arithmetic over seconds and bytes."""

from dataclasses import dataclass
from typing import Literal

_DISK_RATE = 0.3e9  # bytes a second that outputs are taken to be written and read with
_SHARE = 0.5  # of the free disk that `auto` takes at most


@dataclass(frozen=True)
class Estimate:
    """What both ways would cost.

    `sequences` are those of the training text, `uses` how many all trainings together see. For one sequence, `seconds`
    are those of what storing saves, the teacher's pass; `again` those of what is computed at every use either way, the
    distribution from final hidden states; and `bytes` those of the stored outputs. `free` are the bytes on the disk.
    """

    sequences: int
    uses: int
    seconds: float
    again: float
    bytes: int
    free: int

    @property
    def size(self) -> int:
        """Bytes of all outputs."""
        return self.sequences * self.bytes

    @property
    def online_seconds(self) -> float:
        """The teacher passes every sequence as often as it is seen."""
        return self.uses * (self.seconds + self.again)

    @property
    def stored_seconds(self) -> float:
        """The teacher passes every sequence once; its outputs are written once, and read as often as they are seen."""
        disk = (self.sequences + self.uses) * self.bytes / _DISK_RATE
        return self.sequences * self.seconds + self.uses * self.again + disk

    @property
    def fits(self) -> bool:
        """Whether stored outputs leave half of the free disk."""
        return self.size <= _SHARE * self.free

    @property
    def choice(self) -> Literal["stored", "online"]:
        """What takes less time, as long as stored outputs fit."""
        return "stored" if self.fits and self.stored_seconds < self.online_seconds else "online"

    def __str__(self) -> str:
        """The arithmetic in words."""
        each = f"({self.seconds:.3g} + {self.again:.3g} s)" if self.again else f"{self.seconds:.3g} s"
        online = f"online {self.uses:,} sequences x {each} = {self.online_seconds:,.3g} s"
        heads = f", {self.uses:,} x {self.again:.3g} s" if self.again else ""
        stored = (
            f"stored {self.sequences:,} x {self.seconds:.3g} s{heads}, and {in_bytes(self.size)} written once and"
            f" {in_bytes(self.uses * self.bytes)} read at {in_bytes(_DISK_RATE)} a second"
            f" = {self.stored_seconds:,.3g} s ({in_bytes(self.free)} free)"
        )
        why = "" if self.fits else ", as stored outputs would take more than half of the free disk"
        return f"{online}; {stored}: {self.choice}{why}"


def in_bytes(count: float) -> str:
    """`1.5 GB` for 1,500,000,000."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} bytes"
