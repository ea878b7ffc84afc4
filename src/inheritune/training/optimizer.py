"""The optimizers of a training: built from the recipe, stepped on a condition, with a state that can be stored.

A training has a list of them: AdamW for all tensors, or Muon for the blocks' matrices and AdamW for the rest. What
holds for one kind only (a learning rate that is a tensor, states in 8 bits, parameters kept twice) stays in here.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from inheritune.errors import InputError, RunError
from inheritune.recipe import Optimizer

if TYPE_CHECKING:
    import torch

# AdamW's running means of gradient and squared gradient, as torch and torchao call them
_AVERAGES = ("exp_avg", "exp_avg_sq")


def check_optimizer(settings: Optimizer, device: str) -> None:
    """See whether the optimizer can run on a device of this kind ("cpu", "cuda", ...), before anything is built.

    Raises InputError when torchao is missing, or for `offload` on anything but a GPU of CUDA.
    """
    if settings.offload and device != "cuda":
        raise InputError(
            "train.optimizer.offload",
            f"true, on {device}: torchao moves states out of the memory of a CUDA GPU only",
            "leave it out",
        )
    for place, given, asked in (
        ("train.optimizer.states", "8bit", settings.states == "8bit"),
        ("train.optimizer.offload", "true", settings.offload),
    ):
        if asked and find_spec("torchao") is None:
            what = f"{given}, and the package torchao, which does that, is not installed"
            raise InputError(place, what, "pip install 'inheritune[low-memory]', or leave it out")


def check_shardable(settings: Optimizer) -> None:
    """See whether the optimizer works on parameters that are spread over several processes (FSDP).

    Raises InputError for 8-bit states and for offload. AdamW and Muon work, see `step_if_finite`.
    """
    reason = "on several processes: it is for one process only"
    remedy = "leave it out; FSDP already spreads the states over the processes"
    if settings.states == "8bit":
        raise InputError("train.optimizer.states", f"8bit, {reason}", remedy)
    if settings.offload:
        raise InputError("train.optimizer.offload", f"true, {reason}", remedy)


def build_optimizer(
    model: "torch.nn.Module", matrices: frozenset[str], settings: Optimizer
) -> list["torch.optim.Optimizer"]:
    """The optimizers that together train every parameter of `model` that requires a gradient, each exactly once.

    AdamW (Loshchilov and Hutter, 2019) has two groups: tensors of two or more dimensions decay, all others (norms,
    biases) do not. With muon, the two-dimensional tensors among `matrices` (names as in `model.named_parameters()`) get
    Muon (Jordan et al., 2024), its updates scaled to the size of AdamW's (Liu et al., 2025), and AdamW all else:
    embeddings and head, vectors, and the three-dimensional tensors that hold a matrix for each expert.

    The parameters must be on the device they are trained on, with the values training starts from. Raises InputError
    when the optimizer cannot run there (`check_optimizer`) or when muon is left without a matrix; ValueError when
    `matrices` has a name that the model has not.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    check_optimizer(settings, trained[0].device.type if trained else "cpu")
    if settings.name == "adamw":
        return [_adamw(trained, settings)]
    chosen = _matrices(model, matrices)
    others = [parameter for parameter in trained if parameter not in chosen]
    return [_muon(list(chosen), settings), *([_adamw(others, settings)] if others else [])]


def _matrices(model: "torch.nn.Module", names: frozenset[str]) -> dict["torch.nn.Parameter", None]:
    """The trained two-dimensional tensors among `names`, in the model's order, a shared one once."""
    named = dict(model.named_parameters(remove_duplicate=False))
    if unknown := sorted(names - named.keys()):
        raise ValueError(f"no parameters of this model: {unknown[:3]}")
    chosen = {p: None for name, p in named.items() if name in names and p.requires_grad and p.dim() == 2}
    if not chosen:
        raise InputError(
            "train.optimizer.name", "muon, and the blocks have no trained matrix for it", "give name: adamw"
        )
    return chosen


def _muon(matrices: list["torch.nn.Parameter"], settings: Optimizer) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.Muon(
        matrices,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.momentum,
        adjust_lr_fn="match_rms_adamw",
    )


def _adamw(trained: list["torch.nn.Parameter"], settings: Optimizer) -> "torch.optim.Optimizer":
    import torch

    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    common: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.epsilon}
    if settings.states == "8bit":
        small: torch.optim.Optimizer = _torchao("AdamW8bit")(groups, **common)
        return small
    if settings.offload:
        away: torch.optim.Optimizer = _torchao("CPUOffloadOptimizer")(groups, torch.optim.AdamW, fused=True, **common)
        return away
    return torch.optim.AdamW(groups, fused=True, **common)


def _torchao(name: str) -> Any:
    """A class of torchao.optim, imported without its log lines about CUDA kernels that nothing here uses."""
    import warnings

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import torchao.optim
    finally:
        logging.disable(before)
    # a remark of torch's compiler to torchao's authors, once a process, on the first step with 8-bit states
    warnings.filterwarnings("ignore", "OptimState8bit does not implement _stable_hash_for_caching", UserWarning)
    return getattr(torchao.optim, name)


def set_learning_rate(optimizers: Iterable["torch.optim.Optimizer"], rate: float) -> None:
    """Make `rate` the learning rate of the next step of each.

    torchao holds it as a float32 tensor that is compiled into the step, so it is filled there and never replaced.
    """
    import torch

    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def step_if_finite(optimizers: Sequence["torch.optim.Optimizer"], bad: "torch.Tensor") -> None:
    """One step of each optimizer, or none of any when `bad` is 1.

    `bad` is a float32 tensor without dimensions on the parameters' device: 0, or 1 when loss or gradient is not finite.
    With several processes it must be the same on each. With 1, parameters, momenta and step counters keep every bit.

    With AdamW alone, on CUDA or the CPU, the step is queued and the host waits for nothing: the fused kernel reads
    `bad` on the device (that is how torch skips steps in float16). Muon, torchao's optimizers and MPS cannot do that,
    so with one of them the host reads `bad` first, which waits for the device.

    On parameters that are DTensors Muon puts each matrix's update together on every process, one at a time, and
    orthogonalises it there: torch's own Muon would round partial sums to bfloat16 and not agree with one process.
    """
    if all(_skips_on_device(optimizer) for optimizer in optimizers):
        for optimizer in optimizers:
            optimizer.found_inf = bad  # type: ignore[attr-defined]
            try:
                optimizer.step()
            finally:
                del optimizer.found_inf  # type: ignore[attr-defined]
    elif not bad.item():
        for optimizer in optimizers:
            _step(optimizer)


def _skips_on_device(optimizer: "torch.optim.Optimizer") -> bool:
    import torch

    # the kernel for MPS takes `found_inf` and does not look at it
    return isinstance(optimizer, torch.optim.AdamW) and all(
        group["fused"] and all(parameter.device.type in ("cpu", "cuda") for parameter in group["params"])
        for group in optimizer.param_groups
    )


def _step(optimizer: "torch.optim.Optimizer") -> None:
    import torch

    if isinstance(optimizer, torch.optim.Muon):
        _step_muon(optimizer)
        return
    if _is_offloading(optimizer):
        _send_gradients(optimizer)
    optimizer.step()


def _step_muon(muon: "torch.optim.Muon") -> None:
    """A step of Muon that gives the same whether the parameters are DTensors or on one process."""
    import torch

    steps = [(group, p) for group in muon.param_groups for p in group["params"] if p.grad is not None]
    if not any(hasattr(parameter, "full_tensor") for _, parameter in steps):
        muon.step()  # type: ignore[no-untyped-call]
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    with torch.no_grad():
        for group, parameter in steps:
            gradient, state = parameter.grad, muon.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
            update = gradient.lerp(momentum, group["momentum"])
            if isinstance(update, DTensor):
                change = _orthogonalised(update.full_tensor(), group)
                # every process has the whole of it, so each takes its part without asking another
                change = distribute_tensor(change, update.device_mesh, update.placements, src_data_rank=None)
            else:
                change = _orthogonalised(update, group)
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change)


def _orthogonalised(update: "torch.Tensor", group: dict[str, Any]) -> "torch.Tensor":
    """What Muon adds to a parameter for this update (rows, columns): torch's own step on zeros, without momentum."""
    import torch

    change = torch.nn.Parameter(torch.zeros_like(update))
    change.grad = update
    options = {key: value for key, value in group.items() if key != "params"}
    torch.optim.Muon([change], **{**options, "momentum": 0.0, "nesterov": False}).step()  # type: ignore[no-untyped-call]
    return change.detach()


def _is_offloading(optimizer: "torch.optim.Optimizer") -> bool:
    return hasattr(optimizer, "param_d2h_map")


def _send_gradients(optimizer: Any) -> None:
    """Send the gradients to the CPU's memory once more, as they are now.

    torchao sends them during the backward pass, before they are clipped, and may still be reading while they are. The
    learning would silently be another one.
    """
    import torch

    for sent in optimizer.queue.values():
        sent.synchronize()
    for parameter, held in optimizer.param_d2h_map.items():
        if parameter.grad is not None:
            held.grad.copy_(parameter.grad, non_blocking=True)
    torch.cuda.current_stream().synchronize()


def allocate_state(model: "torch.nn.Module", optimizers: Iterable["torch.optim.Optimizer"]) -> None:
    """Give every trained parameter of `model` the state it has before its first step, where it has none yet.

    Running means of zeros, like the parameter in shape, device and placement (a DTensor's are DTensors), and 0 steps:
    what the optimizers would make themselves, in their first step. No parameter changes. After this `state_tensors`
    has all of its keys, so that torch.distributed.checkpoint can load into them in place.
    """
    import torch

    holders = _holders(optimizers)
    for parameter in model.parameters():
        if parameter not in holders:
            continue
        optimizer, held = holders[parameter]
        state = optimizer.state[held]
        if state:
            continue
        if isinstance(optimizer, torch.optim.Muon):
            state["momentum_buffer"] = torch.zeros_like(held)
        elif isinstance(optimizer, torch.optim.AdamW):
            # fused AdamW counts steps in float32, beside the parameter
            state["step"] = torch.zeros((), dtype=torch.float32, device=held.device)
            state.update({field: torch.zeros_like(held) for field in _AVERAGES})
        else:
            state["step"] = torch.tensor(0.0)
            signed = {"exp_avg": True, "exp_avg_sq": False}
            # torchao has no public way; this is the one its step takes, so small tensors stay float32 as there
            state.update({field: optimizer._new_buffer(held, signed[field]) for field in _AVERAGES})  # type: ignore[attr-defined]


def state_tensors(model: "torch.nn.Module", optimizers: Iterable["torch.optim.Optimizer"]) -> dict[str, "torch.Tensor"]:
    """What the optimizers keep, as "parameter/field" to tensor: the very tensors, not copies.

    AdamW: `step` (no dimensions), `exp_avg`, `exp_avg_sq`; Muon: `momentum_buffer`. An 8-bit state has a third part
    in its name for each plain tensor that it consists of: `codes`, `scale`, `qmap`. Offloaded ones lie in the CPU's
    memory. A parameter that has had no step and is not allocated is not there. They may be non-contiguous.
    """
    tensors: dict[str, torch.Tensor] = {}
    holders = _holders(optimizers)
    for name, parameter in model.named_parameters():
        if parameter not in holders:
            continue
        optimizer, held = holders[parameter]
        for field, value in optimizer.state.get(held, {}).items():
            for part, tensor in _plain(value):
                tensors[f"{name}/{field}{part}"] = tensor
    return tensors


def load_state(
    model: "torch.nn.Module", optimizers: Iterable["torch.optim.Optimizer"], tensors: Mapping[str, "torch.Tensor"]
) -> None:
    """Put the optimizers into the state that `state_tensors` gave, whatever they did before; values are copied.

    A parameter of which `tensors` has nothing gets the state before its first step. The parameters must have their
    loaded values already: an offloading optimizer keeps its own copy of them, which is renewed here. Raises RunError
    when the state is another optimizer's or another model's; the optimizers are then as before their first step.
    """
    import torch

    optimizers = list(optimizers)
    for optimizer, held in _holders(optimizers).values():
        optimizer.state.pop(held, None)
    allocate_state(model, optimizers)
    places = state_tensors(model, optimizers)
    begun = {key.partition("/")[0] for key in tensors}
    expected = {key for key in places if key.partition("/")[0] in begun}
    wrong = sorted(expected ^ tensors.keys()) or sorted(
        key for key in expected if tensors[key].shape != places[key].shape
    )
    if wrong:
        raise RunError(
            "the optimizer's state",
            f"{len(wrong):,} of its tensors do not fit train.optimizer or the model, {wrong[0]} first",
            "go on with the recipe that the state was written with, or begin in another folder",
        )
    with torch.no_grad():
        for key in expected:
            places[key].copy_(tensors[key])
        for parameter, (_, held) in _holders(optimizers).items():
            if held is not parameter:
                held.copy_(parameter)


def _holders(
    optimizers: Iterable["torch.optim.Optimizer"],
) -> dict["torch.Tensor", tuple["torch.optim.Optimizer", "torch.Tensor"]]:
    """For each trained parameter of the model the optimizer that has its state, and the parameter it has it under.

    The latter is another tensor when torchao offloads: it runs one optimizer on the CPU for each large parameter.
    """
    holders: dict[torch.Tensor, tuple[torch.optim.Optimizer, torch.Tensor]] = {}
    for optimizer in optimizers:
        inner: list[Any] = [optimizer]
        if _is_offloading(optimizer):
            inner = [optimizer.d_opt] if optimizer.d_opt is not None else []  # type: ignore[attr-defined]
            for parameter, held in optimizer.param_d2h_map.items():  # type: ignore[attr-defined]
                holders[parameter] = (optimizer.optim_dict[parameter], held)  # type: ignore[attr-defined]
        for each in inner:
            holders.update({p: (each, p) for group in each.param_groups for p in group["params"]})
    return holders


def _plain(value: "torch.Tensor") -> list[tuple[str, "torch.Tensor"]]:
    """The tensors a state consists of, with what is added to its name. A DTensor stays one: it says where it lies."""
    if not hasattr(value, "__tensor_flatten__"):
        return [("", value)]
    from torch.distributed.tensor import DTensor

    if isinstance(value, DTensor):
        return [("", value)]
    return [(f"/{part}", getattr(value, part)) for part in value.__tensor_flatten__()[0]]
