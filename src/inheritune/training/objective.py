"""What a training minimises, as a module, so that it can be compiled and spread over processes as one."""

from typing import TYPE_CHECKING, Any, Protocol

import torch

from inheritune.arch import check_room
from inheritune.data import IGNORED
from inheritune.losses import (
    Distribution,
    Form,
    chunked_distillation,
    distillation,
    has_chunked_form,
    linear_cross_entropy,
    token_losses,
)
from inheritune.training.documents import inside_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from inheritune.data import Array
    from inheritune.recipe import Distillation

_WHOLE_LOGITS = 2 * 2**30  # bytes of float32 logits above which they are not held at once


class LinearHead(Protocol):
    """Logits are `linear(base(...).last_hidden_state * scale)`: what `arch.Head` says of a model."""

    @property
    def base(self) -> torch.nn.Module:
        """Gives the last hidden states."""

    @property
    def linear(self) -> torch.nn.Linear:
        """The head."""

    @property
    def scale(self) -> float:
        """What the hidden states are multiplied with."""


class RouterTerm(Protocol):
    """The router loss of a mixture of experts: what `arch.RouterLoss` says of a model."""

    @property
    def weight(self) -> float:
        """What the term is multiplied with."""

    def __call__(self, router_logits: "Sequence[torch.Tensor]", counts_BT: torch.Tensor) -> torch.Tensor:
        """The term over a batch, from the routers' logits and the positions that count."""


class TeacherOutputs(Protocol):
    """A teacher's distributions over the training text, by the settings of a distillation."""

    @property
    def settings(self) -> "Distillation":
        """What is learnt of them."""

    def stored(self, starts: "Array") -> tuple[torch.Tensor, ...]:
        """What is kept of the sequences that begin at these tokens of the text (B,): on the CPU, B rows in each tensor.

        Called while earlier steps are computed; nothing where the teacher passes every batch itself.
        """

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> "Callable[[slice], Distribution]":  # fmt: skip
        """What gives the distribution of a slice of the B x L predicted tokens.

        For inputs (B, T), what is stored of them, and their `positions` and `places` (see `data.Examples`).
        """


class NextToken(torch.nn.Module):
    """Next-token cross-entropy of a causal language model, with a `teacher` the distillation of that one, and with a
    `router` the term that balances a mixture's experts.

    `forward` gives sums over all targets that count (for training): the loss, and behind it those of its `terms`, where
    it has any; or for judging the cross-entropy of each token (B, T) with `by_token`, its mean over each sequence (B,)
    with `by_sequence`; in nats. `head` lets it compute the loss without holding all logits; without it the model's own
    are used. The router's term is a mean over the tokens of the call, and enters the sum once for every target.
    """

    def __init__(
        self, model: torch.nn.Module, head: "LinearHead | None", teacher: TeacherOutputs | None = None,
        router: RouterTerm | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        self._head = [head]  # in a list, as its modules are the model's and must not be registered twice
        self._teacher = [teacher]  # nor are a teacher's trained, spread or saved
        self._router = router
        more = (*(() if teacher is None else ("kl",)), *(() if router is None else ("router",)))
        self.terms = ("cross_entropy", *more) if more else ()
        self.form: Form = "whole"

    def choose_form(self, tokens: int) -> None:
        """Chunked where the logits of `tokens` tokens would take too much memory and torch has that form."""
        head = self._head[0]
        if head is not None:
            large = tokens * head.linear.weight.shape[0] * 4 > _WHOLE_LOGITS
            possible = has_chunked_form() or self._teacher[0] is not None
            self.form = "chunked" if large and possible else "whole"

    def forward(
        self, inputs_BT: torch.Tensor, targets_BT: torch.Tensor, *stored: torch.Tensor,
        positions: torch.Tensor | None = None, places: torch.Tensor | None = None, by_sequence: bool = False,
        by_token: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """The loss for inputs and targets (B, T), and what is stored of a teacher's outputs for them.

        With `positions` (B, T), the places of tokens in their documents, attention stays inside documents. `places`
        (B, L) are the inputs that predict the text's tokens, where these are not all inputs in their order.
        """
        head = self._head[0]
        given: dict[str, Any] = {"input_ids": inputs_BT}
        if positions is None:
            check_room(self.model, inputs_BT.shape[1])
        else:
            given = inside_documents(self.model, inputs_BT, positions)
        if by_sequence or by_token:
            losses_BT = token_losses(self.model(**given, use_cache=False).logits, targets_BT)
            if by_token:
                return losses_BT
            return losses_BT.double().sum(dim=1) / (targets_BT >= 0).sum(dim=1).clamp(min=1)
        teacher, taught = self._teacher[0], None
        if teacher is not None:  # it comes first, so that what it takes is free again
            taught = _ask(teacher, inputs_BT, stored, positions, places)
        outputs, router = self._outputs(head, given), None
        if self._router is not None:
            counted = (targets_BT >= 0).sum()
            seen_BT = torch.where(counted > 0, _seen(targets_BT), 1)  # of no token the term would not be a number
            router = self._router(outputs.router_logits, seen_BT) * counted
        if taught is not None:
            sums = self._distilled(teacher, taught, outputs, targets_BT, places)  # type: ignore[arg-type]
        elif head is None:
            sums = token_losses(outputs.logits, targets_BT).sum()
        else:
            hidden_BTD = self._hidden(head, outputs)
            sums = linear_cross_entropy(hidden_BTD, head.linear.weight, head.linear.bias, targets_BT, self.form)
        return sums if router is None else self._with_router(sums, router)

    def _outputs(self, head: LinearHead | None, given: dict[str, Any]) -> Any:
        """What the model returns, or without its head where that is taken alone."""
        if self._router is not None:
            given = {**given, "output_router_logits": True}
        return (self.model if head is None else head.base)(**given, use_cache=False)

    def _hidden(self, head: LinearHead, outputs: Any) -> torch.Tensor:
        hidden_BTD: torch.Tensor = outputs.last_hidden_state
        return hidden_BTD if head.scale == 1.0 else hidden_BTD * head.scale

    def _with_router(self, sums: torch.Tensor, router: torch.Tensor) -> torch.Tensor:
        """The router's term added to the loss, and behind the other terms."""
        assert self._router is not None
        loss, *terms = sums.reshape(-1).unbind()
        terms = terms or [loss.detach()]
        return torch.stack([loss + self._router.weight * router, *terms, router.detach().to(loss)])

    def _distilled(
        self, teacher: TeacherOutputs, taught: "Callable[[slice], Distribution]", outputs: Any,
        targets_BT: torch.Tensor, places: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """The sums of loss, cross-entropy and KL."""
        head, targets_BL = self._head[0], at_places(targets_BT, places)
        if places is not None:  # a token that no input predicts
            targets_BL = targets_BL.masked_fill(places < 0, IGNORED)
        targets_N = targets_BL.flatten()
        of = teacher.settings.student, teacher.settings.temperature
        if head is None or self.form == "whole":
            if head is None:
                logits_BTV = at_places(outputs.logits, places)
            else:
                logits_BTV = head.linear(at_places(self._hidden(head, outputs), places))
            return distillation(logits_BTV.flatten(0, 1), targets_N, taught(slice(None)), *of)
        hidden_ND = at_places(self._hidden(head, outputs), places).flatten(0, 1)
        found: torch.Tensor = _chunked(hidden_ND, head.linear.weight, head.linear.bias, targets_N, taught, *of)
        return found


def _seen(targets_BT: torch.Tensor) -> torch.Tensor:
    """1 for each position up to the last target that counts (B, T), 0 for padding and for rows that fill up a batch."""
    behind_BT = (targets_BT >= 0).int().flip(1).cummax(dim=1).values
    return behind_BT.flip(1)


def at_places(values_BT: torch.Tensor, places_BL: torch.Tensor | None) -> torch.Tensor:
    """What stands at some places of each sequence: (B, T, ...) to (B, L, ...); all of it without `places_BL`.

    A negative place stands for none, and gives what is at place 0.
    """
    if places_BL is None:
        return values_BT
    rows_B1 = torch.arange(len(places_BL), device=places_BL.device)[:, None]
    return values_BT[rows_B1, places_BL.clamp(min=0)]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _ask(
    teacher: TeacherOutputs, inputs_BT: torch.Tensor, stored: tuple[torch.Tensor, ...], positions: torch.Tensor | None,
    places: torch.Tensor | None,
) -> "Callable[[slice], Distribution]":  # fmt: skip
    """What a teacher says, outside of the model's compiled code and without gradients."""
    with torch.no_grad():
        taught = teacher(inputs_BT, *stored, positions=positions, places=places)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def part(tokens: slice) -> Distribution:
        with torch.no_grad():
            return taught(tokens)

    return part  # type: ignore[no-any-return]


_chunked = torch.compiler.disable(chunked_distillation)  # type: ignore[no-untyped-call] # a loop whose gradients are computed again going backward


def checkpoint_activations(blocks: "Sequence[torch.nn.Module]") -> "Callable[[], None]":
    """Let each block keep only its input for the backward pass and compute the rest again; returns what undoes it.

    Source: Chen et al., Training deep nets with sublinear memory cost, 2016.
    """
    from torch.utils.checkpoint import checkpoint

    def again(forward: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*given, **named)
            return checkpoint(forward, *given, use_reentrant=False, **named)

        return run

    each = dict.fromkeys(blocks)  # a block that is used at several depths is one
    own = {block: block.__dict__.get("forward") for block in each}
    for block in each:
        block.forward = again(block.forward)

    def undo() -> None:
        for block, forward in own.items():
            del block.forward
            if forward is not None:
                block.forward = forward

    return undo
