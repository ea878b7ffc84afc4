"""Where a run computes: process, device, threads, precision, seed. One process is the case where rank is 0 of 1."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Runtime:
    """The process's place and device."""

    device: str
    threads: int
    rank: int = 0
    processes: int = 1

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """The context for a forward pass in `precision` ('float32', 'bfloat16' or 'auto')."""
        import torch

        if self.resolve_precision(precision) == "bfloat16":
            return torch.autocast(self.device, dtype=torch.bfloat16)
        return nullcontext()

    def resolve_precision(self, precision: str) -> str:
        """`auto` is bfloat16 on a GPU that has it, float32 elsewhere."""
        import torch

        if precision != "auto":
            return precision
        return "bfloat16" if self.device == "cuda" and torch.cuda.is_bf16_supported() else "float32"

    def describe(self) -> dict[str, Any]:
        """Device facts for the manifest."""
        import torch

        facts: dict[str, Any] = {"device": self.device, "threads": self.threads, "processes": self.processes}
        if self.device == "cuda":
            facts["gpu"] = torch.cuda.get_device_name()
        return facts


def start(device: str = "auto", threads: int | None = None) -> Runtime:
    """Set up threads and device. Raises InputError when the device that was asked for is not there."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if not present.get(device, False):
        legal = ", ".join(name for name, here in present.items() if here)
        raise InputError("hardware.device", f"{device} is not on this machine", f"legal here are auto, {legal}")
    return Runtime(device=device, threads=torch.get_num_threads())


def seed(value: int) -> None:
    """Seed torch's generators, on which random weights and dropout depend."""
    import torch

    torch.manual_seed(value)


def random_state(device: str) -> dict[str, "torch.Tensor"]:
    """The state of torch's generators as byte tensors."""
    import torch

    state = {"cpu": torch.get_rng_state()}
    if device == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, "torch.Tensor"]) -> None:
    """Put back what `random_state` gave."""
    import torch

    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes (0 where the system does not tell)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024


@dataclass
class StopRequest:
    """Set by Ctrl-C or SIGTERM; the training loop looks at it after every step."""

    signal_name: str | None = None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Inside, Ctrl-C and SIGTERM set the request instead of ending the process; a second one ends it at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield request
        return

    def note(number: int, frame: Any) -> None:
        if request.signal_name is not None:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
