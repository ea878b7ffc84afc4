"""What models are trained on: peak rates from the makers' data sheets, memory, and what is assumed of use and price."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inheritune.errors import DamagedFile, InputError
from inheritune.runlog import read_json

USABLE = 0.92
"""The share of a device's memory that a training may plan with: the rest is for the allocator's gaps."""

_HEAP = 0.55  # the same of a processor's: gaps in glibc's heap take up to 0.8 of the tensors (docs/benchmarks.md)

_CORE = 90e9  # float32 FLOP/s of a processor core: half of what a 2048³ product gets on two (docs/benchmarks.md)
_CORE_PRICE = 0.04


@dataclass(frozen=True)
class Device:
    """A device: dense FLOP/s in bfloat16 and float32, bytes of memory as its driver reports them (rounded down), and
    `price` in dollars an hour. `utilisation` is the range of the fraction of the peak that a training is assumed to
    reach (docs/planning.md has the sources). `measured` is a user's own rate in FLOP/s, in place of both. `usable` is
    the share of its memory that a training's tensors may take.
    """

    name: str
    bfloat16: float
    float32: float
    memory: float
    price: float
    utilisation: tuple[float, float]
    pattern: str = ""
    has_float8: bool = False
    is_processor: bool = False
    measured: float | None = None
    usable: float = USABLE

    def peak(self, precision: str) -> float:
        """FLOP/s at most. Products in float8 count as bfloat16's, as only a part of them is."""
        return self.float32 if precision == "float32" else self.bfloat16

    def rates(self, precision: str) -> tuple[float, float]:
        """FLOP/s that are expected, from and to."""
        if self.measured is not None:
            return self.measured, self.measured
        low, high = self.utilisation
        return low * self.peak(precision), high * self.peak(precision)


# Utilisations are others' figures, as no GPU was measured here. A100 and H100: trainings of LLM Foundry, 125M to 13B
# parameters (H100: from 760M), 8 GPUs, sequences of 2048; H200: the H100's chip. There a training reaches 43 to 74 % of
# the rate of a large product, 271 and 794 TFLOP/s (Bekman, Machine Learning Engineering). The others: the same part of
# theirs, 95 TFLOP/s (A6000) and 161 (RTX 4090; transformers-benchmarks and a fork of it), 91 (L4; mag-/gpu_benchmark).
DEVICES = (
    Device("A6000", 155e12, 38.7e12, 50e9, 0.60, (0.25, 0.45), pattern=r"RTX A6000"),
    Device("A100", 312e12, 19.5e12, 84e9, 1.60, (0.45, 0.65), pattern=r"A100"),
    Device("H100", 989e12, 67e12, 84e9, 2.80, (0.35, 0.45), pattern=r"H100 80GB HBM3", has_float8=True),
    Device("H200", 989e12, 67e12, 149e9, 3.60, (0.35, 0.45), pattern=r"H200(?! NVL)", has_float8=True),
    Device("RTX 4090", 165e12, 82.6e12, 25e9, 0.45, (0.40, 0.70), pattern=r"RTX 4090(?! D| Laptop)", has_float8=True),
    Device("L4", 121e12, 30.3e12, 23e9, 0.60, (0.35, 0.55), pattern=r"L4", has_float8=True),
)
"""GPUs. Peaks are the data sheets' (A100 with 80 GB, H100 SXM); prices are what renting one costs about."""


def processor() -> Device:
    """The processor and memory of this machine; it multiplies bfloat16 no faster than float32."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows
        memory = 16e9
    # small matrices are multiplied slower; the standard shape reaches 0.86 (docs/benchmarks.md)
    utilisation, peak = (0.5, 0.85), cores * _CORE
    return Device("CPU", peak, peak, memory, cores * _CORE_PRICE, utilisation, is_processor=True, usable=_HEAP)


def known_devices() -> list[Device]:
    """All devices of the table, the processor of this machine last."""
    return [*DEVICES, processor()]


def choose_devices(names: Sequence[str] = (), prices: Mapping[str, float] | None = None) -> list[Device]:
    """The devices of these names (default: all), with the user's prices. Raises InputError for an unknown one."""
    every = {device.name: device for device in known_devices()}
    for name, price in (prices or {}).items():
        device = every[_known(name, every)]
        every[device.name] = replace(device, price=price)
    return [every[_known(name, every)] for name in names] if names else list(every.values())


def _known(name: str, every: Mapping[str, Device]) -> str:
    """The table's spelling of a name: case, spaces, dashes and the maker do not matter."""
    plain = {re.sub(r"[\s_-]|nvidia|rtx", "", known.lower()): known for known in every}
    wanted = re.sub(r"[\s_-]|nvidia|rtx", "", name.lower())
    if wanted in plain:
        return plain[wanted]
    near = difflib.get_close_matches(wanted, list(plain), n=1)
    hint = f"did you mean {plain[near[0]]}? " if near else ""
    raise InputError("device", f"no {name!r} in the table", f"{hint}known are {', '.join(every)}")


def by_cuda_name(name: str) -> Device | None:
    """The device that CUDA gives this name; None for one that the table does not have."""
    return next((d for d in DEVICES if re.search(rf"\b{d.pattern}(?![0-9A-Za-z])", name)), None)


def measured_device(file: str | Path, price: float | None = None) -> tuple[Device, dict[str, Any]]:
    """The device that `inheritune bench --out FILE` measured, with its rate; and what the file says.

    Raises InputError for a file that is none of these.
    """
    remedy = "give a file that `inheritune bench --out FILE` wrote"
    try:
        bench = read_json(Path(file))
        rate, hardware = float(bench["step"]["flops_per_second"]), bench["hardware"]
        name, kind = str(hardware["name"]), str(hardware["device"])
        bench["flops_per_token"], bench["shape"], bench["precision"]
    except OSError as error:
        raise InputError(str(file), f"cannot be read ({error.strerror})", remedy) from None
    except (DamagedFile, KeyError, TypeError, ValueError):
        raise InputError(str(file), "no figures of a measurement", remedy) from None
    if not 0 < rate < float("inf"):
        raise InputError(str(file), f"a rate of {rate} FLOP/s", remedy)
    known = processor() if kind == "cpu" else by_cuda_name(name)
    if known is None:
        memory = float(bench["memory"]["peak_bytes"]) / USABLE  # all that is known of it: so much was enough
        known = Device(name, rate, rate, memory, 0.0, (1.0, 1.0))
    return replace(known, name=f"{known.name}, measured", measured=rate, price=price or known.price), bench
