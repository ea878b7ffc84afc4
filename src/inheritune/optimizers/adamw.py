"""AdamW: with torch's fused kernel, or by torchao with states in 8 bits or in the CPU's memory."""

import logging
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from inheritune.errors import InputError
from inheritune.optimizers.base import Beta, Optimizer, Positive

if TYPE_CHECKING:
    import torch

_AVERAGES = ("exp_avg", "exp_avg_sq")  # the running means of gradient and squared gradient, as torch calls them
_FLOAT32 = 8  # bytes a parameter: two running means
_EIGHT_BIT = 2 * (1 + 4 / 256)  # torchao: a byte each, and a float32 scale for 256 of them
_LEAST_EIGHT_BIT = 4096  # smaller tensors stay in float32, and those whose size is no multiple of 256


class _WithAdamW(Optimizer):
    """An optimizer that trains some parameters by AdamW."""

    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of AdamW's running means of gradient and squared gradient."""
    epsilon: Positive = 1e-8
    """Added to AdamW's denominator."""


class AdamW(_WithAdamW):
    """AdamW (Loshchilov and Hutter, 2019). Defaults follow the paper's GPT-2 experiments."""

    name: Literal["adamw"] = "adamw"
    """The optimizer's name."""
    states: Literal["float32", "8bit"] = "float32"
    """The type of the running means. 8bit: a quarter of the memory, with torchao (one process only)."""
    offload: bool = False
    """Keep the running means in the CPU's memory and compute the updates there (torchao; one GPU only)."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.states == "8bit" and self.offload:
            raise ValueError("offload: offloaded states are float32; give either states: 8bit or offload: true")
        return self

    def less_memory(self) -> dict[str, Self]:
        """The running means in 8 bits, or in the CPU's memory; they exclude each other."""
        if self.one_process_only is not None:
            return {}
        return {
            "optimizer.states=8bit": self.model_copy(update={"states": "8bit"}),
            "optimizer.offload=true": self.model_copy(update={"offload": True}),
        }

    @property
    def one_process_only(self) -> tuple[str, str] | None:
        """States in 8 bits, and offloading."""
        return ("states", "8bit") if self.states == "8bit" else ("offload", "true") if self.offload else None

    @property
    def states_on_device(self) -> bool:
        """Unless they are offloaded."""
        return not self.offload

    def check_device(self, device: str) -> None:
        """Raise InputError when torchao is missing, and for `offload` on anything but a GPU of CUDA."""
        if self.offload and device != "cuda":
            raise InputError(
                "train.optimizer.offload",
                f"true, on {device}: torchao moves states out of the memory of a CUDA GPU only",
                "remove it",
            )
        if self.one_process_only is not None and find_spec("torchao") is None:
            key, value = self.one_process_only
            what = f"{value}, and the package torchao, which does that, is not installed"
            raise InputError(f"train.optimizer.{key}", what, "pip install 'inheritune[low-memory]', or remove it")

    def build(
        self, model: "torch.nn.Module", matrices: frozenset[str], further: "Sequence[torch.nn.Parameter]" = ()
    ) -> "list[torch.optim.Optimizer]":
        """One optimizer for all."""
        trained = [p for p in (*model.parameters(), *further) if p.requires_grad]
        self.check_device(trained[0].device.type if trained else "cpu")
        groups, options = adamw_arguments(trained, self)
        if self.states == "8bit":
            return [_torchao("AdamW8bit")(groups, **options)]
        import torch

        if self.offload:
            return [_torchao("CPUOffloadOptimizer")(groups, torch.optim.AdamW, fused=True, **options)]
        return [torch.optim.AdamW(groups, fused=True, **options)]

    def state_bytes(self, size: int, dimensions: int, in_block: bool) -> float:
        """Two running means."""
        small = self.states == "8bit" and size >= _LEAST_EIGHT_BIT and size % 256 == 0
        return size * (_EIGHT_BIT if small else _FLOAT32)

    @classmethod
    def owns(cls, optimizer: "torch.optim.Optimizer") -> bool:
        """Torch's AdamW and torchao's optimizers."""
        import torch

        return isinstance(optimizer, torch.optim.AdamW) or type(optimizer).__module__.startswith("torchao.")

    @classmethod
    def initial_state(cls, optimizer: Any, parameter: "torch.Tensor") -> "dict[str, torch.Tensor]":
        """No steps, and running means of zeros."""
        import torch

        if isinstance(optimizer, torch.optim.AdamW):
            # fused AdamW counts steps in float32, beside the parameter
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            return {"step": step, **{field: torch.zeros_like(parameter) for field in _AVERAGES}}
        # torchao has no public function for this; like its own step, this keeps small tensors in float32
        means = {
            field: optimizer._new_buffer(parameter, signed)
            for field, signed in zip(_AVERAGES, (True, False), strict=True)
        }
        return {"step": torch.tensor(0.0), **means}

    @classmethod
    def skips_on_device(cls, optimizer: Any) -> bool:
        """The fused kernel does on CPU and CUDA; the one for MPS ignores `found_inf`."""
        import torch

        return isinstance(optimizer, torch.optim.AdamW) and all(
            group["fused"] and all(parameter.device.type in ("cpu", "cuda") for parameter in group["params"])
            for group in optimizer.param_groups
        )

    @classmethod
    def step(cls, optimizer: Any) -> None:
        """One step. Before it, offloaded gradients are sent to the CPU's memory again.

        torchao sends them during the backward pass, before clipping, and may still read them while they are clipped.
        Then training would silently differ.
        """
        if _is_offloading(optimizer):
            import torch

            for sent in optimizer.queue.values():
                sent.synchronize()
            for parameter, held in optimizer.param_d2h_map.items():
                if parameter.grad is not None:
                    held.grad.copy_(parameter.grad, non_blocking=True)
            torch.cuda.current_stream().synchronize()
        optimizer.step()

    @classmethod
    def holders(cls, optimizer: Any) -> "Iterable[tuple[torch.Tensor, torch.optim.Optimizer, torch.Tensor]]":
        """With offloading, torchao has an optimizer on the CPU for the copy of each large parameter."""
        if not _is_offloading(optimizer):
            return super().holders(optimizer)
        small = () if optimizer.d_opt is None else super().holders(optimizer.d_opt)
        return [*((p, optimizer.optim_dict[p], held) for p, held in optimizer.param_d2h_map.items()), *small]


def adamw_arguments(
    trained: "Sequence[torch.nn.Parameter]", settings: _WithAdamW
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The groups and options of all kinds of AdamW. Norms and biases (fewer than two dimensions) do not decay."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    options = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.epsilon}
    return [group for group in groups if group["params"]], options


def _is_offloading(optimizer: Any) -> bool:
    return hasattr(optimizer, "param_d2h_map")


def _torchao(name: str) -> Any:
    """A class of torchao.optim, imported without its log lines about CUDA kernels that are not used here."""
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
