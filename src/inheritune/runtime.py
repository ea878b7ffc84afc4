"""Where a run computes: process, device, threads, precision, seed. One process is the case where rank is 0 of 1."""

import ctypes
import datetime
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from inheritune.errors import InherituneError, InputError, OtherProcessFailed

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

MOST_THREADS = 1024  # as in a recipe's hardware
_T = TypeVar("_T")
_PATIENCE = datetime.timedelta(days=30)  # the longest wait while one process works alone, say reads all the text
_patient: Any = None  # the process group for that
_timeout = datetime.timedelta(minutes=10)
_nodes = 1
_PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells its processes
_DATA = ("replicate", "shard")  # dimensions of the mesh whose processes have data of their own


@dataclass(frozen=True)
class Runtime:
    """The process's place and device.

    `mesh` arranges the processes in named dimensions, the outermost first: `replicate` (each has the whole model),
    `shard` (each has a part of every tensor), and any others, whose processes work on the same data. Empty: all
    processes are replicas. `nodes`: how many nodes there are, with as many processes each; 0 where these differ.
    """

    device: str
    threads: int
    rank: int = 0
    world_size: int = 1
    mesh: tuple[tuple[str, int], ...] = ()
    nodes: int = 1

    @property
    def is_rank0(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.rank == 0

    @property
    def dp_size(self) -> int:
        """How many parts the data are divided into: the product of the data dimensions."""
        return math.prod(size for name, size in self.mesh if name in _DATA) if self.mesh else self.world_size

    @property
    def dp_rank(self) -> int:
        """Which part of the data is this process's."""
        if not self.mesh:
            return self.rank
        part, rest = 0, self.rank
        for number, (name, size) in enumerate(self.mesh):
            inner = math.prod(one for _, one in self.mesh[number + 1 :])
            if name in _DATA:
                part = part * size + rest // inner
            rest %= inner
        return part

    def arranged(self, **sizes: int) -> "Runtime":
        """The same process in a mesh of these dimensions. Raises ValueError unless it has as many processes."""
        if math.prod(sizes.values()) != self.world_size:
            raise ValueError(f"a mesh of {sizes} for {self.world_size} processes")
        return replace(self, mesh=tuple(sizes.items()))

    def device_mesh(self) -> "DeviceMesh":
        """The mesh as torch knows it. Called by all processes."""
        from torch.distributed.device_mesh import init_device_mesh

        names, sizes = zip(*self.mesh, strict=True)
        return init_device_mesh(self.device, sizes, mesh_dim_names=names)

    def autocast(self, precision: str) -> AbstractContextManager[Any]:
        """The context for a forward pass in `precision` ('float32', 'bfloat16', 'float8' or 'auto')."""
        import torch

        if self.resolve_precision(precision) != "float32":
            return torch.autocast(self.device, dtype=torch.bfloat16)
        return nullcontext()

    def resolve_precision(self, precision: str) -> str:
        """`precision`, or for `auto` bfloat16 on a GPU that has it and float32 elsewhere."""
        import torch

        if precision != "auto":
            return precision
        return "bfloat16" if self.device == "cuda" and torch.cuda.is_bf16_supported() else "float32"

    def quick_precision(self) -> str:
        """The fastest precision of products here: bfloat16 on a GPU, or a CPU with instructions for it (AVX-512 BF16,
        AMX), else float32.
        """
        import torch

        if self.device == "cpu" and hasattr(torch.cpu, "get_capabilities"):
            has = torch.cpu.get_capabilities()
            return "bfloat16" if has.get("avx512_bf16") or has.get("amx_bf16") else "float32"
        return self.resolve_precision("auto")

    def on_rank0(self, work: Callable[[], _T]) -> _T:
        """Do `work` on the first process; all return its result, which must be plain data.

        The others wait as long as it takes, and raise OtherProcessFailed if the first process fails.
        """
        if self.world_size == 1:
            return work()
        import torch.distributed as dist

        outcome: list[Any] = [None, None]
        failure: BaseException | None = None
        if self.is_rank0:
            try:
                outcome = [work(), None]
            except Exception as error:
                failure, outcome = error, [None, error.exit_status if isinstance(error, InherituneError) else 1]
        dist.broadcast_object_list(outcome, src=0, group=_patient)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise OtherProcessFailed(outcome[1])
        result: _T = outcome[0]
        return result

    def gather(self, value: _T, group: Any = None) -> list[_T]:
        """The values of all processes, in the order of their ranks, on each of them; over `group` if there is one."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=group)
        return values

    def describe(self) -> dict[str, Any]:
        """Device facts for the manifest."""
        import torch

        facts: dict[str, Any] = {"device": self.device, "threads": self.threads, "processes": self.world_size}
        if self.device == "cuda":
            facts["gpu"] = torch.cuda.get_device_name()
        return facts


def start(device: str = "auto", threads: int | None = None, timeout_minutes: float = 10) -> Runtime:
    """Set up threads, device and, under torchrun, the group of processes.

    A process that waits for another one longer than `timeout_minutes` fails. Raises InputError for a device that this
    machine lacks, for more threads than any machine has, and where torchrun's variables contradict each other.
    """
    import torch

    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise InputError("hardware.threads", f"got {threads}", f"give a number from 1 to {MOST_THREADS}")
        torch.set_num_threads(threads)
    elif torch.get_num_threads() > MOST_THREADS:
        what = f"OMP_NUM_THREADS={torch.get_num_threads()}"
        raise InputError("environment", what, f"set a number from 1 to {MOST_THREADS}, or unset it")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        device = "cuda" if present["cuda"] else "mps" if present["mps"] else "cpu"
    if not present.get(device, False):
        legal = ", ".join(name for name, here in present.items() if here)
        raise InputError("hardware.device", f"{device} is not on this machine", f"legal here are auto, {legal}")
    _check_place()
    rank, processes = place_of_process()
    if processes > 1:
        _join(device, timeout_minutes)
        _return_freed_memory()
    return Runtime(device=device, threads=torch.get_num_threads(), rank=rank, world_size=processes, nodes=_nodes)


def place_of_process() -> tuple[int, int]:
    """Rank and number of the processes that torchrun started; 0 of 1 without it, or where these are no numbers."""
    try:
        return int(os.environ.get("RANK") or 0), int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError:
        return 0, 1


def _check_place() -> None:
    """Raise InputError for variables that torchrun does not set in this way: the process might wait forever."""
    values = {name: os.environ[name] for name in _PLACE if os.environ.get(name)}
    if not values.keys() & {"RANK", "WORLD_SIZE"}:
        return
    rank, processes = place_of_process()
    numbers = all(values.get(name, "0").isdecimal() for name in ("RANK", "WORLD_SIZE"))
    if not numbers or not 0 <= rank < processes or (processes > 1 and len(values) < len(_PLACE)):
        shown = ", ".join(f"{name}={values.get(name, '(not set)')}" for name in _PLACE)
        raise InputError("environment", shown, "start it with torchrun, which sets them, or unset RANK and WORLD_SIZE")


def _join(device: str, timeout_minutes: float) -> None:
    """Make the group of processes, once."""
    import torch
    import torch.distributed as dist

    global _patient, _timeout, _nodes
    if dist.is_initialized():
        return
    if device == "mps":
        raise InputError("hardware.device", "mps has no communication between processes", "give cpu or cuda")
    if device == "cuda":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            what = f"{local + 1} or more processes on a machine with {torch.cuda.device_count()} GPUs"
            raise InputError("torchrun", what, "give --nproc-per-node at most the number of GPUs")
        torch.cuda.set_device(local)
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    _timeout = datetime.timedelta(minutes=timeout_minutes)
    dist.init_process_group(backend, timeout=_timeout)
    _patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    world, said = place_of_process()[1], os.environ.get("LOCAL_WORLD_SIZE", "")
    sizes = [0] * world  # of the node of each process; all agree on the number of nodes
    dist.all_gather_object(sizes, int(said) if said.isdecimal() and int(said) else world, group=_patient)
    _nodes = world // sizes[0] if len(set(sizes)) == 1 and world % sizes[0] == 0 else 0


def side_group() -> Any:
    """A group of all processes for messages in the CPU's memory, independent of those of the training."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=_timeout)


def leave() -> None:
    """Take this process out of the group, if there is one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if libc is not None and hasattr(libc, "gnu_get_libc_version") else None


def _return_freed_memory() -> None:
    """Let glibc return the memory of every freed tensor of 128 KB or more, as it does before it has freed any.

    Otherwise glibc keeps more and more of it, as it raises the size from which it returns memory to 32 MB. Of a model
    that FSDP gathers block by block, each process then holds as much as all blocks take. See docs/scaling.md.
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 2**17)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, glibc keeps freed memory: a step allocates the same again, and each new page would cost a page fault.

    See docs/benchmarks.md for the gain. On several processes this does nothing, as FSDP frees what it has gathered.
    """
    libc = _glibc()
    if libc is None or place_of_process()[1] > 1:
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, 2**16)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**17)
        libc.malloc_trim(0)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h


def random_state(device: str) -> dict[str, "torch.Tensor"]:
    """The state of torch's generators as byte tensors."""
    import torch

    state = {"cpu": torch.get_rng_state()}
    if device == "cuda":
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, "torch.Tensor"]) -> None:
    """Set the state that `random_state` returned."""
    import torch

    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def peak_memory() -> int:
    """The largest resident memory of this process so far, in bytes (0 where the system does not report it)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if os.uname().sysname == "Darwin" else peak * 1024


def answer(line: str) -> None:
    """Write a line to standard error from a signal handler, where print is unsafe; on the first process only."""
    if not place_of_process()[0]:
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())


@dataclass
class StopRequest:
    """Set by Ctrl-C or SIGTERM; the training loop reads it after every step, and says how long a step took."""

    signal_name: str | None = None
    step_seconds: float | None = None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Inside, Ctrl-C and SIGTERM set the request instead of ending the process; a second one raises KeyboardInterrupt.

    The first one is answered at once with a line on standard error.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield request
        return

    def note(number: int, frame: Any) -> None:
        if request.signal_name is not None:
            raise KeyboardInterrupt
        request.signal_name = signal.Signals(number).name
        seconds = round(request.step_seconds or 0)
        took = f" (a step takes about {seconds} s)" if seconds else ""
        answer(f"{request.signal_name}: stopping after this step{took}; a second signal stops now, without saving")

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
