"""One model on several processes: whole on each (DDP), or a share of every block on each (FSDP2)."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import torch

from inheritune.errors import InputError
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from inheritune.training.objective import NextToken

How = Literal["alone", "ddp", "fsdp"]
_BYTES_EACH = 16  # a parameter in float32, its gradient, and AdamW's two running means


@dataclass(frozen=True)
class Spread:
    """An objective as this process holds it.

    `call` is what computes; `module` is the objective itself. `averages` is by how many processes gradients are divided
    when they are put together.
    """

    how: How
    call: Any
    module: "NextToken"
    averages: int

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around the backward pass of a micro-batch; gradients of DDP are put together in the last one."""
        if self.how == "ddp" and not last:
            with self.call.no_sync():
                yield
        else:
            yield


def choose(wanted: str, model: torch.nn.Module, runtime: Runtime) -> How:
    """`auto` as the recipe says it: alone, or DDP where it takes less than a quarter of a device, else FSDP."""
    if wanted == "fsdp":
        return "fsdp"
    if runtime.processes == 1:
        return "alone"
    if wanted == "ddp":
        return "ddp"
    needed = sum(parameter.numel() for parameter in model.parameters()) * _BYTES_EACH
    return "ddp" if runtime.device != "cuda" or needed < torch.cuda.mem_get_info()[1] / 4 else "fsdp"


def spread(
    objective: "NextToken", blocks: Sequence[torch.nn.Module], how: How, runtime: Runtime, *,
    precision: str = "float32", compiled: bool = False,
) -> Spread:  # fmt: skip
    """Put an objective on the process's device and on its fellow processes.

    Compiled whole on one process and with DDP; block by block with FSDP, whose communication lies between the blocks.
    """
    if how == "fsdp":
        _shard(objective, blocks, runtime, precision)
        if compiled:
            for block in blocks:
                block.compile()
        return Spread(how, objective, objective, runtime.processes)
    objective.to(runtime.device)
    call: Any = torch.compile(objective) if compiled else objective
    if how == "ddp":
        place = [torch.cuda.current_device()] if runtime.device == "cuda" else None
        call = torch.nn.parallel.DistributedDataParallel(call, device_ids=place, gradient_as_bucket_view=True)
    return Spread(how, call, objective, runtime.processes if how == "ddp" else 1)


def lacking_compiler(device: str) -> str | None:
    """What torch.compile needs on a device and does not find; None where nothing is missing."""
    if device == "cuda":
        return None if find_spec("triton") is not None else "the package triton"
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return None if any(shutil.which(name) for name in compilers) else "a C++ compiler (g++)"


def check_compiler(device: str) -> None:
    """Raise InputError where torch.compile cannot work."""
    lacking = lacking_compiler(device)
    if lacking is not None:
        raise InputError("train.compile", f"true, and {lacking} is missing", "install it, or give auto or false")


def _shard(objective: torch.nn.Module, blocks: Sequence[torch.nn.Module], runtime: Runtime, precision: str) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():  # degree 1, without torchrun
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if runtime.device == "cuda" else "gloo", store=store, rank=0, world_size=1)
    mesh = init_device_mesh(runtime.device, (runtime.processes,))
    policy = MixedPrecisionPolicy()
    if precision != "float32":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    owners: set[int] = set()
    for block in blocks:
        own = {id(parameter) for parameter in block.parameters()}
        if own and not own & owners:  # blocks that share weights with others stay with the whole
            fully_shard(block, mesh=mesh, mp_policy=policy)
        owners |= own
    fully_shard(objective, mesh=mesh, mp_policy=policy)
    objective.to(runtime.device)  # buffers


def whole_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All of a sharded model's tensors by name, in the CPU's memory, on the first process; elsewhere nothing."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    found: dict[str, Any] = get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    return found
