"""Muon for the blocks' matrices, and AdamW for all else."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from inheritune.errors import InputError
from inheritune.optimizers.adamw import _WithAdamW, adamw_arguments
from inheritune.optimizers.base import Beta

if TYPE_CHECKING:
    import torch


class Muon(_WithAdamW):
    """Muon (Jordan et al., 2024) for the blocks' matrices, its updates scaled to the size of AdamW's so that AdamW's
    rates fit (Liu et al., 2025). AdamW for all else: embeddings and head, vectors, and three-dimensional tensors, which
    hold a matrix for each expert.
    """

    name: Literal["muon"] = "muon"
    """The optimizer's name."""
    momentum: Beta = 0.95
    """Decay of Muon's running mean of gradients."""

    def build(
        self, model: "torch.nn.Module", matrices: frozenset[str], further: "Sequence[torch.nn.Parameter]" = ()
    ) -> "list[torch.optim.Optimizer]":
        """Muon, and AdamW for the other parameters, if any. Raises ValueError for names that the model lacks."""
        import torch

        named = dict(model.named_parameters(remove_duplicate=False))
        if unknown := sorted(matrices - named.keys()):
            raise ValueError(f"no parameters of this model: {unknown[:3]}")
        # in the model's order, a shared tensor once
        chosen = {p: None for name, p in named.items() if name in matrices and p.requires_grad and p.dim() == 2}
        if not chosen:
            what = "muon, and the blocks have no trained matrix for it"
            raise InputError("train.optimizer.name", what, "give name: adamw")
        muon = torch.optim.Muon(
            list(chosen), lr=self.learning_rate, weight_decay=self.weight_decay, momentum=self.momentum,
            adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
        others = [p for p in (*model.parameters(), *further) if p.requires_grad and p not in chosen]
        groups, options = adamw_arguments(others, self)
        return [muon, *([torch.optim.AdamW(groups, fused=True, **options)] if groups else [])]

    def state_bytes(self, size: int, dimensions: int, in_block: bool) -> float:
        """One running mean for the blocks' matrices, two for the rest."""
        return size * (4 if in_block and dimensions == 2 else 8)

    @classmethod
    def owns(cls, optimizer: "torch.optim.Optimizer") -> bool:
        """Torch's Muon."""
        import torch

        return isinstance(optimizer, torch.optim.Muon)

    @classmethod
    def initial_state(cls, optimizer: Any, parameter: "torch.Tensor") -> "dict[str, torch.Tensor]":
        """A running mean of zeros."""
        import torch

        return {"momentum_buffer": torch.zeros_like(parameter)}

    @classmethod
    def step(cls, optimizer: Any) -> None:
        """One step, with the same result whether the parameters are DTensors or on one process.

        Each process gathers the whole update of one DTensor after the other and orthogonalises it. torch's own step
        would round partial sums to bfloat16, and its result would depend on the number of processes.
        """
        import torch

        steps = [(group, p) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not any(hasattr(parameter, "full_tensor") for _, parameter in steps):
            optimizer.step()
            return
        from torch.distributed.tensor import DTensor, distribute_tensor

        with torch.no_grad():
            for group, parameter in steps:
                gradient, state = parameter.grad, optimizer.state[parameter]
                if not state:
                    state.update(cls.initial_state(optimizer, parameter))
                momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
                update = gradient.lerp(momentum, group["momentum"])
                if isinstance(update, DTensor):
                    change = _orthogonalised(update.full_tensor(), group)
                    # every process has all of it, so each takes its part without communication
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
