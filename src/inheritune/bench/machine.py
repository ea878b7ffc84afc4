"""The machine's own limit: the rate of a large matrix product, the data sheet's rate, memory, names."""

import platform
import re
import time
from pathlib import Path
from typing import Any

import torch

from inheritune import runtime as rt
from inheritune.planner import by_cuda_name
from inheritune.runtime import Runtime

MATRIX = {"cpu": 2048, "cuda": 8192, "mps": 4096}  # the side of the square product that is the machine's limit
_PRODUCTS = {"cpu": 1, "cuda": 10, "mps": 4}  # products to one reading of the clock


def known_peak(name: str) -> float | None:
    """The data sheet's dense bfloat16 FLOP/s of a GPU by the name that CUDA gives it; None for one not in the table."""
    device = by_cuda_name(name)
    return None if device is None else device.bfloat16


def matrix_rates(runtime: Runtime, dtype: torch.dtype, times: int = 3) -> list[float]:
    """FLOP/s of a product of two large square matrices of random numbers, `times` times, after one that warms up."""
    side, products = MATRIX[runtime.device], _PRODUCTS[runtime.device]
    generator = torch.Generator(runtime.device).manual_seed(1)
    left, right, out = (torch.randn(side, side, device=runtime.device, generator=generator).to(dtype) for _ in range(3))
    rates = []
    with torch.no_grad():
        for _ in range(times + 1):
            synchronise(runtime.device)
            began = time.perf_counter()
            for _ in range(products):
                torch.mm(left, right, out=out)
            synchronise(runtime.device)
            rates.append(2 * side**3 * products / (time.perf_counter() - began))
    return rates[1:]


def synchronise(device: str) -> None:
    """Wait until the device has finished its work, so that the clock can be read."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def peak_memory(runtime: Runtime) -> dict[str, Any]:
    """The largest memory so far: what torch's allocator gave out on a GPU, the process's resident memory elsewhere."""
    if runtime.device == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "of": "GPU memory in tensors"}
    return {"peak_bytes": rt.peak_memory(), "of": "resident memory of the process"}


def reset_peak_memory(runtime: Runtime) -> None:
    """Reset the peak; only a GPU's can be reset."""
    if runtime.device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def device_name(device: str) -> str:
    """The GPU's or the processor's name."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    information = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", information.read_text()) if information.exists() else []
    return names[0] if names else platform.processor() or platform.machine()
