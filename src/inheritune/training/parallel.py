"""One model on several processes: replicated (DDP), every block sharded over all of them (FSDP2), or sharded inside
each node and replicated over the nodes (HSDP).
"""

import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.distributed as dist

from inheritune.errors import InputError
from inheritune.runtime import Runtime, random_state, restore_random_state
from inheritune.training.objective import Objective

How = Literal["alone", "ddp", "fsdp", "hsdp"]
SHARDED: tuple[How, ...] = ("fsdp", "hsdp")
_BYTES_EACH = 16  # a parameter in float32, its gradient, and AdamW's two running means
_BYTES_WHOLE = 6  # a parameter as it is gathered in bfloat16, and its gradient before it is divided


@dataclass(frozen=True)
class ParallelModel:
    """An objective as this process holds it.

    `call` computes; `module` is the objective itself. `uneven`: not every token reaches every parameter, for example
    where experts are modules of their own, so that processes may have gradients for different parameters. This is
    determined on several processes only. `whole_bytes`: a sharded model gathers its weights and reduces its gradients
    once a step, and meanwhile has so many bytes of them; 0: it does so in every micro-batch.
    """

    how: How
    call: Any
    module: Objective
    uneven: bool = False
    whole_bytes: int = 0

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """The context for forward and backward of a micro-batch. DDP combines gradients in the last one, HSDP combines
        those of the nodes in the last one.
        """
        whole: Any = self.module  # in what follows fully_shard has made it an FSDPModule
        if self.how == "hsdp":
            whole.set_requires_all_reduce(last)
        if self.whole_bytes:
            whole.set_requires_gradient_sync(last)
            whole.set_reshard_after_backward(last)
            for module in whole.modules():
                if module is not whole and hasattr(module, "set_reshard_after_forward"):  # a block
                    module.set_reshard_after_forward(last, recurse=False)
        with self.call.no_sync() if self.how == "ddp" and not last else nullcontext():
            yield

    def drop_unreached_gradients(self) -> None:
        """After a batch's last backward pass: remove the gradients of parameters that none of its sequences reached.

        So the optimizer does not update them, as on one process. FSDP and rows that fill up give them zeros.
        """
        if not self.uneven:
            return
        held = [p for p in self.module.parameters() if p.grad is not None]
        gradients: list[Any] = [p.grad for p in held]
        own = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
        reached = torch.stack([gradient.count_nonzero() for gradient in own])
        dist.all_reduce(reached)
        for parameter, count in zip(held, reached.tolist(), strict=True):
            if not count:
                parameter.grad = None


def check_parallel(wanted: str, runtime: Runtime) -> None:
    """Raise InputError for HSDP where the nodes have different numbers of processes."""
    if wanted == "hsdp" and not runtime.nodes:
        what = "hsdp, and the nodes have different numbers of processes"
        raise InputError("hardware.parallel", what, "start as many processes on every node, or give fsdp")


def choose(wanted: str, model: torch.nn.Module, runtime: Runtime) -> How:
    """How processes hold a model.

    auto: DDP if that takes less than a quarter of a device; else HSDP on several nodes if a node's share takes less
    than half of a device; else FSDP. On one node HSDP is FSDP. Raises InputError as `check_parallel` does.
    """
    check_parallel(wanted, runtime)
    several = runtime.nodes > 1
    if wanted in SHARDED:
        return "hsdp" if wanted == "hsdp" and several else "fsdp"
    if runtime.world_size == 1:
        return "alone"
    if wanted == "ddp" or runtime.device != "cuda":
        return "ddp"
    needed, memory = _parameters(model) * _BYTES_EACH, torch.cuda.mem_get_info()[1]
    if needed < memory / 4:
        return "ddp"
    return "hsdp" if several and needed * runtime.nodes / runtime.world_size < memory / 2 else "fsdp"


def _parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _whole_bytes(model: torch.nn.Module, runtime: Runtime) -> int:
    """Bytes of all weights and gradients of a sharded model during a step; 0 if a GPU has no room for them: a quarter
    of its memory.

    0 on a CPU, where they would be in the memory that sharding is to save, and on one process, which exchanges nothing
    and repeats a step that ran out of memory.
    """
    if runtime.device != "cuda" or runtime.world_size == 1:
        return 0
    needed = _parameters(model) * _BYTES_WHOLE
    return needed if needed < torch.cuda.mem_get_info()[1] / 4 else 0


def parallelize(
    objective: Objective, blocks: Sequence[torch.nn.Module], how: How, runtime: Runtime, *,
    precision: str = "float32", compiled: bool = False, trained: bool = True,
) -> ParallelModel:  # fmt: skip
    """Put an objective on the process's device, and replicate or shard it. Without `trained` it only computes losses.

    It is compiled as a whole on one process and with DDP, and block by block with FSDP, which communicates between the
    blocks.
    """
    uneven = False
    if how in SHARDED:
        # the first one decides, as GPUs may have different memories
        held = runtime.on_rank0(lambda: _whole_bytes(objective.model, runtime)) if trained else 0
        whole = _shard(objective, blocks, how, runtime, precision)
        if trained and runtime.world_size > 1:
            uneven = _is_uneven(objective, runtime, precision)
            if uneven and hasattr(whole, "set_reduce_scatter_unused_params"):  # torch 2.13
                whole.set_reduce_scatter_unused_params(True)
        if compiled:
            for block in blocks:
                block.compile()
        return ParallelModel(how, objective, objective, uneven, held)
    objective.to(runtime.device)
    if compiled and objective.terms:
        # a teacher's call interrupts the graph, and torch.compile then reads the gradient of a tensor that is no leaf
        warnings.filterwarnings("ignore", r"The \.grad attribute of a Tensor that is not a leaf", UserWarning)
    call: Any = torch.compile(objective) if compiled else objective
    if how == "ddp":
        uneven = _is_uneven(objective, runtime, precision)
        mesh = runtime.arranged(replicate=runtime.world_size).device_mesh()
        devices = [torch.cuda.current_device()] if runtime.device == "cuda" else None
        call = torch.nn.parallel.DistributedDataParallel(
            call, device_ids=devices, process_group=mesh.get_group("replicate"), gradient_as_bucket_view=True,
            find_unused_parameters=uneven,
        )  # fmt: skip
    return ParallelModel(how, call, objective, uneven)


def _is_uneven(objective: Objective, runtime: Runtime, precision: str) -> bool:
    """Whether a single token leaves some of the model's parameters without a gradient: a trial that changes nothing.

    One token reaches the fewest parameters: of experts, only those that it is routed to.
    """
    # the same token sixteen times at the first position, as products in float8 need multiples of 16 rows
    tokens_BT = torch.zeros(16, 1, dtype=torch.long, device=runtime.device)
    training, state = objective.training, random_state(runtime.device)
    objective.train()
    with runtime.autocast(precision):
        loss = objective(tokens_BT, tokens_BT, by_token=True).sum()  # which needs no teacher
    loss.backward()
    uneven = any(p.requires_grad and p.grad is None for p in objective.model.parameters())
    objective.zero_grad(set_to_none=True)
    objective.train(training)
    restore_random_state(state)
    return uneven


def lacking_compiler(device: str) -> str | None:
    """What torch.compile needs on a device and is missing; None where nothing is."""
    if device == "cuda":
        return None if find_spec("triton") is not None else "the package triton"
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return None if any(shutil.which(name) for name in compilers) else "a C++ compiler (g++)"


def check_compiler(device: str) -> None:
    """Raise InputError where torch.compile cannot work."""
    lacking = lacking_compiler(device)
    if lacking is not None:
        raise InputError("train.compile", f"true, and {lacking} is missing", "install it, or give auto or false")


def _shard(
    objective: torch.nn.Module, blocks: Sequence[torch.nn.Module], how: How, runtime: Runtime, precision: str
) -> Any:  # fmt: skip
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if not dist.is_initialized():  # degree 1, without torchrun
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if runtime.device == "cuda" else "gloo", store=store, rank=0, world_size=1)
    replicas = {"replicate": runtime.nodes} if how == "hsdp" else {}
    shards = runtime.world_size // replicas.get("replicate", 1)
    mesh = runtime.arranged(**replicas, shard=shards).device_mesh()
    policy = MixedPrecisionPolicy()
    if precision != "float32":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    first = _of_the_first(objective, runtime)
    owners: set[int] = set()
    for block in blocks:
        own = {id(parameter) for parameter in block.parameters()}
        if own and not own & owners:  # blocks that share weights with others stay with the whole
            fully_shard(block, mesh=mesh, mp_policy=policy)
        owners |= own
    # no cast of inputs, which are tokens and a teacher's outputs in float16
    whole = fully_shard(objective, mesh=mesh, mp_policy=replace(policy, cast_forward_inputs=False))
    if first is not None:
        _hand_out(objective, first, runtime, shards)
    objective.to(runtime.device)  # buffers
    return whole


def _of_the_first(objective: torch.nn.Module, runtime: Runtime) -> dict[str, torch.Tensor] | None:
    """Where only the first process has the weights: its tensors that the others lack, by name; None where all have."""
    lacking = runtime.gather([name for name, parameter in objective.named_parameters() if parameter.is_meta])
    names = sorted(set().union(*lacking))
    if not names:
        return None
    own = dict(objective.named_parameters())
    buffers = runtime.on_rank0(lambda: {name: buffer.cpu() for name, buffer in objective.named_buffers()})
    with torch.no_grad():
        for name, buffer in objective.named_buffers():
            buffer.copy_(buffers[name])
    return {name: own[name].detach() for name in names}


def _hand_out(
    objective: torch.nn.Module, first: dict[str, torch.Tensor], runtime: Runtime, shards: int
) -> None:  # fmt: skip
    """Give each process its rows of the first one's tensors, divided among the `shards` processes of a replica.

    One tensor goes after the other, and these are freed meanwhile.
    """
    objective._apply(  # type: ignore[no-untyped-call]
        lambda one: torch.empty_like(one, device=runtime.device) if one.is_meta else one
    )
    named: dict[str, Any] = dict(objective.named_parameters())
    with torch.no_grad():
        for name in list(first):
            whole, local = first.pop(name), named[name].to_local()
            rows = -(-whole.shape[0] // shards)  # FSDP's own parts: the last ones may be shorter, or empty
            mine = torch.empty((rows, *whole.shape[1:]), dtype=local.dtype, device=local.device)
            parts = None
            if runtime.is_rank0:
                own = [torch.zeros_like(mine) for _ in range(shards)]
                for part, piece in zip(own, torch.split(whole, rows), strict=False):
                    part[: len(piece)] = piece
                parts = own * (runtime.world_size // shards)
            dist.scatter(mine, parts, src=0)
            local.copy_(mine[: len(local)])


def whole_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All tensors of a sharded model by name, in the CPU's memory of the first process; empty on the others."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: dict[str, Any] = get_model_state_dict(model, options=options)
    return state
