"""What an optimizer is: its settings, how it is built, its first state, the memory of its states."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field

from inheritune.errors import InputError
from inheritune.settings import Part

if TYPE_CHECKING:
    import torch

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Part):
    """The optimizer of a training, as its settings. A new one is a subclass in a file of its own in this package.

    It needs `build`, `state_bytes`, `owns` and `initial_state`. `build` returns torch optimizers. `owns` tells which
    subclass handles one of them; the class methods of that subclass step it and make its state.
    """

    name: str
    """The optimizer's name."""
    learning_rate: Positive = 3e-4
    """Peak rate, reached after warm-up."""
    weight_decay: NotNegative = 0.1
    """Decoupled decay, on tensors of two or more dimensions only (matrices and embeddings, not norms or biases)."""
    clip: Positive | None = 1.0
    """Largest norm of the whole gradient; null: no clipping."""

    def less_memory(self) -> dict[str, Self]:
        """The overrides of `train` by which states take less of the device's memory, with the settings that they give.

        The most expensive is last.
        """
        return {}

    @property
    def one_process_only(self) -> tuple[str, str] | None:
        """The key and value that keep it from working on sharded parameters (FSDP); None where nothing does."""
        return None

    @property
    def states_on_device(self) -> bool:
        """Whether the states are in the memory of the device that trains."""
        return True

    def check_device(self, device: str) -> None:
        """Raise InputError where it cannot run on a device of this kind ("cpu", "cuda", ...)."""

    def check_shardable(self) -> None:
        """Raise InputError where it does not work on parameters that are sharded over several processes."""
        if self.one_process_only is not None:
            key, value = self.one_process_only
            raise InputError(
                f"train.optimizer.{key}", f"{value}, on several processes: it is for one process only",
                "remove it; FSDP already spreads the states over the processes",
            )  # fmt: skip

    def build(
        self, model: "torch.nn.Module", matrices: frozenset[str], further: "Sequence[torch.nn.Parameter]" = ()
    ) -> "list[torch.optim.Optimizer]":
        """The torch optimizers that together train every parameter that requires a gradient, each exactly once.

        The parameters are the model's and `further` ones. They must be on the device they are trained on, with the
        values from which training starts. `matrices` are the blocks' matrices by their names in the model. Raises
        InputError as `check_device` does, and where the model has nothing for this optimizer.
        """
        raise NotImplementedError

    def state_bytes(self, size: int, dimensions: int, in_block: bool) -> float:
        """The bytes of the state of one tensor with `size` elements, wherever they are kept."""
        raise NotImplementedError

    @classmethod
    def owns(cls, optimizer: "torch.optim.Optimizer") -> bool:
        """Whether this class makes and steps such a torch optimizer."""
        raise NotImplementedError

    @classmethod
    def initial_state(cls, optimizer: Any, parameter: "torch.Tensor") -> "dict[str, torch.Tensor]":
        """The state of a parameter before its first step, as the optimizer's own first step would make it."""
        raise NotImplementedError

    @classmethod
    def skips_on_device(cls, optimizer: Any) -> bool:
        """Whether its step skips itself when `found_inf` on the device is 1, so that the host need not wait."""
        return False

    @classmethod
    def step(cls, optimizer: Any) -> None:
        """One step."""
        optimizer.step()

    @classmethod
    def holders(cls, optimizer: Any) -> "Iterable[tuple[torch.Tensor, torch.optim.Optimizer, torch.Tensor]]":
        """Each parameter of the model, the torch optimizer that has its state, and the tensor it has the state for."""
        return [(p, optimizer, p) for group in optimizer.param_groups for p in group["params"]]
