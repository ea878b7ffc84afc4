"""The router loss of mixtures of experts, which keeps tokens spread over the experts."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator

from inheritune.losses.base import BatchLoss, Key, LossInputs, LossSetup, Ramp

if TYPE_CHECKING:
    import torch


def _choice(value: Any) -> Any:
    if isinstance(value, dict | Ramp):
        return Ramp.model_validate(value)
    if value == "auto" or isinstance(value, bool) or (isinstance(value, int | float) and 0 <= value < float("inf")):
        return value
    raise ValueError("legal are true, false, auto, a weight from 0, and a mapping with start, end and over")


RouterChoice = Annotated[Literal["auto"] | bool | float | Ramp, BeforeValidator(_choice)]


class RouterBalance(BatchLoss):
    """The load-balancing loss as transformers computes it: a mean over a micro-batch, added once for every target."""

    name = "router"
    needs_router_logits = True
    key = Key(
        "router_loss", RouterChoice, "auto",
        "For mixture-of-experts models: add the load-balancing loss, weighted by the config's coefficient"
        " (router_aux_loss_coef). auto: where the config says output_router_logits: true. A number, or a mapping such"
        " as {start: 0.1, end: 0.01, over: 50%}, adds it with that weight. The term is computed over each micro-batch,"
        " recorded as `router`, and never part of a validation loss.",
    )  # fmt: skip

    def __init__(self, term: Any, weight: float | Ramp | None = None) -> None:
        super().__init__(term.weight if weight is None else weight)
        self._term = term

    @classmethod
    def build(cls, settings: Any, setup: LossSetup) -> Self | None:
        """None where the setup has no router loss."""
        if setup.router is None:
            return None
        return cls(setup.router, None if isinstance(settings, bool | str) else settings)

    def of_batch(self, inputs: LossInputs) -> "torch.Tensor":
        """The term times the number of targets that count."""
        import torch

        counted = inputs.counted
        attended_BT = torch.where(counted > 0, inputs.attended_BT, 1)  # over no token at all the term would be NaN
        balance: torch.Tensor = self._term(inputs.router_logits, attended_BT) * counted
        return balance
