"""The router loss of a mixture of experts, which keeps tokens spread over its experts: as transformers computes it."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from inheritune.errors import InputError
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")
_NEAR = 1e-4  # the largest relative difference between this router loss and the model's own


@dataclass(frozen=True)
class RouterLoss:
    """`weight` is the config's coefficient; `asked_for`: whether the config has `output_router_logits: true`."""

    weight: float
    asked_for: bool
    experts: int
    per_token: int
    balance: "Callable[..., torch.Tensor]" = field(repr=False)

    def __call__(self, router_logits: "Sequence[torch.Tensor]", counts_BT: "torch.Tensor") -> "torch.Tensor":
        """The unweighted loss of a batch, over the positions that `counts_BT` counts.

        `router_logits` has one tensor (B x T, experts) for each block with experts. Source: Fedus, Zoph and Shazeer,
        Switch transformers, 2021, equations 4 to 6.
        """
        return self.balance(tuple(router_logits), self.experts, self.per_token, counts_BT)


def find_router_loss(model: "PreTrainedModel") -> RouterLoss | None:
    """The router loss of a model on its device, checked against what the model itself adds to its loss.

    None for models without experts, and where the model adds no such term (DeepSeek V3 balances without a loss).
    """
    weight: Any = next(
        (getattr(model, name) for name in _WEIGHTS if isinstance(getattr(model, name, None), float)), None
    )
    balance = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    numbers = getattr(model, "num_experts", None), getattr(model, "num_experts_per_tok", None)
    if weight is None or balance is None or not all(isinstance(number, int) and number > 0 for number in numbers):
        return None
    config = model.config.get_text_config()
    router = RouterLoss(weight, bool(getattr(config, "output_router_logits", False)), *numbers, balance)  # type: ignore[arg-type]
    vocabulary = model.get_input_embeddings().weight.shape[0]
    tokens_BT = torch.randint(0, vocabulary, (2, 8), generator=torch.Generator().manual_seed(0)).to(model.device)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            seen = model(input_ids=tokens_BT, use_cache=False, output_router_logits=True)
            if not seen.router_logits or not torch.is_tensor(seen.aux_loss):
                return None
            own = router(seen.router_logits, torch.ones_like(tokens_BT))
            return router if abs(float(own - seen.aux_loss)) <= _NEAR * abs(float(seen.aux_loss)) else None
    except (TypeError, AttributeError, RuntimeError, ValueError):  # a forward that takes other arguments
        return None
    finally:
        model.train(training)


def router_loss_of(model: "PreTrainedModel", wanted: Any, name: str) -> RouterLoss | None:
    """The router loss that the training `name` adds, or None; the log says which.

    `wanted` is `train.router_loss`: "auto", true, false, or a weight in place of the config's. Raises InputError where
    the recipe or the model's config asks for a router loss that the model does not have.
    """
    if wanted is False:
        return None
    router = find_router_loss(model)
    asked = wanted != "auto"
    if router is None:
        by_config = bool(getattr(model.config.get_text_config(), "output_router_logits", False))
        if asked or by_config:
            shown = str(wanted).lower() if asked else "auto, and the model's config has output_router_logits: true"
            what = f"{shown}, but {type(model).__name__} computes no router loss"
            raise InputError(f"{name}: train.router_loss", what, "set it to false")
        return None
    if asked or router.asked_for:
        weight = f"{router.weight:g}" if isinstance(wanted, bool | str) else str(wanted)
        logger.info(f"{name}: the router loss is added with the weight {weight}")
        return router
    if router.weight:
        logger.info(
            f"{name}: trained without the router loss, as the model's config has output_router_logits: false"
            f" (its weight would be {router.weight:g}); train.router_loss: true adds it"
        )
    return None
