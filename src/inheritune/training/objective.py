"""What a training minimises, as a module, so that it can be compiled and parallelized as one."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.utils.checkpoint import checkpoint

from inheritune.arch import Head, fade_blocks, keep_outputs, replace_forwards
from inheritune.data import IGNORED, Array
from inheritune.losses import (
    BatchLoss,
    CrossEntropy,
    LogitsLoss,
    Loss,
    LossInputs,
    Ramp,
    Taught,
    TeacherNeeds,
    weight_at,
)
from inheritune.losses.combining import in_chunks, on_logits, weighted_sum
from inheritune.losses.functional import Distribution, Form, token_losses
from inheritune.training.documents import model_inputs


class TeacherOutputs(Protocol):
    """A teacher's outputs for the training text."""

    def stored(self, starts: Array) -> tuple[torch.Tensor, ...]:
        """The stored outputs for the sequences that begin at these tokens of the text (B,), on the CPU, B rows each.

        Called while earlier steps are computed. Empty where the teacher runs on every batch.
        """

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> Taught:  # fmt: skip
        """The outputs for inputs (B, T), given what is stored, their `positions` and `places` (`data.Examples`)."""


class Objective(torch.nn.Module):
    """The weighted sum of a model's losses.

    `forward` gives sums over all targets that count (for training): the weighted sum, and behind it, if there is more
    than the cross-entropy, each loss without its weight, named by `terms`. With `by_token` (for judging) it gives the
    cross-entropy of each token (B, T). All in nats.

    `head` (default: the model as a whole) allows losses without holding all logits. `blocks` are the model's, for
    losses that need hidden states. The parameters of losses are the objective's own: trained, but not the model's. What
    the blocks `fading` (their places) add falls linearly over the training, from all of it to nothing.
    """

    weights: torch.Tensor | None
    strength: torch.Tensor | None

    def __init__(
        self, model: torch.nn.Module, head: Head | None = None, losses: Sequence[Loss] = (),
        teacher: TeacherOutputs | None = None, blocks: Sequence[torch.nn.Module] = (), fading: Sequence[int] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = model
        # in lists, as their modules are the model's, or a teacher's that is not trained, and must not be registered
        self._head = [head or Head(model)]
        self._teacher = [teacher]
        self.losses = list(losses) or [CrossEntropy()]
        self.own = torch.nn.ModuleDict({loss.name: loss.module for loss in self.losses if loss.module is not None})
        """The losses' own parameters, by the losses' names."""
        self.form: Form = "whole"
        self._logits_losses = [loss for loss in self.losses if isinstance(loss, LogitsLoss)]
        self._plain = len(self.losses) == 1 and self.losses[0].weight == 1.0
        self.terms = () if self._plain else tuple(loss.name for loss in self.losses)
        self._needs = TeacherNeeds.of(self.losses)
        scheduled = any(isinstance(loss.weight, Ramp) for loss in self.losses)
        self.register_buffer("weights", torch.zeros(len(self.losses)) if scheduled else None, persistent=False)
        self.register_buffer("strength", torch.ones(()) if fading else None, persistent=False)
        self.set_step(0, 2, 1)  # the first of several
        self._kept: dict[int, torch.Tensor] = {}
        wanted = frozenset().union(*(loss.blocks for loss in self.losses))
        # losses see what the faded blocks return, so their outputs are kept last
        self._undo = [] if self.strength is None else [fade_blocks([blocks[one] for one in fading], self.strength)]
        self._undo.append(keep_outputs(blocks, wanted, self._kept))

    def release(self) -> None:
        """Restore the blocks' own forwards."""
        while self._undo:
            self._undo.pop()()

    def set_step(self, step: int, steps: int, batch_tokens: int) -> None:
        """Use the weights of optimizer step `step` (from 0) of `steps`, each of `batch_tokens` tokens."""
        if self.strength is not None:
            self.strength.fill_(weight_at(Ramp(start=1.0, end=0.0), step, steps, batch_tokens))
        if self.weights is not None:
            values = [weight_at(loss.weight, step, steps, batch_tokens) for loss in self.losses]
            self.weights.copy_(torch.tensor(values))

    def choose_form(self, tokens: int) -> None:
        """Compute logits in chunks where those of `tokens` tokens would take too much memory."""
        self.form = self._head[0].form(tokens, alone=len(self._logits_losses) == 1)

    def forward(
        self, inputs_BT: torch.Tensor, targets_BT: torch.Tensor, *stored: torch.Tensor,
        positions: torch.Tensor | None = None, places: torch.Tensor | None = None, by_token: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        """The losses for inputs and targets (B, T); `stored` are a teacher's stored outputs for them.

        With `positions` (B, T), the places of tokens in their documents, attention stays inside documents. `places`
        (B, L) are the inputs that predict the text's tokens, where these are not all inputs in their order.
        """
        arguments = model_inputs(self.model, inputs_BT, positions)
        if by_token:
            return token_losses(self.model(**arguments, use_cache=False).logits, targets_BT)
        teacher, taught = self._teacher[0], None
        if teacher is not None and self._needs:  # it comes first, so that its memory is free again
            taught = _ask(teacher, inputs_BT, stored, positions, places)
        else:
            places = None
        head = self._head[0]
        if any(loss.needs_router_logits for loss in self.losses):
            arguments["output_router_logits"] = True
        outputs = head.outputs(**arguments)
        targets_N = _predicted(targets_BT, places).flatten()
        states_ND = at_places(head.states(outputs), places).flatten(0, 1)
        if self._plain:
            return head.cross_entropy(states_ND, targets_N, self.form)
        values = self._of_logits(states_ND, targets_N, taught)
        others = [loss for loss in self.losses if isinstance(loss, BatchLoss)]
        if others:
            inputs = self._inputs(outputs, targets_BT, targets_N, taught, places)
            values |= {loss.name: loss.of_batch(inputs) for loss in others}
        return weighted_sum(self.losses, [values[loss.name] for loss in self.losses], self.weights)

    def _of_logits(
        self, states_ND: torch.Tensor, targets_N: torch.Tensor, taught: Taught | None
    ) -> dict[str, torch.Tensor]:
        """The losses on logits, by name."""
        head, losses = self._head[0], self._logits_losses
        distribution = None if taught is None or self._needs.temperature is None else taught.distribution
        if len(losses) == 1 and isinstance(losses[0], CrossEntropy):
            return {losses[0].name: head.cross_entropy(states_ND, targets_N, self.form)}
        if self.form == "whole" or head.linear is None:
            sums = on_logits(head.logits, losses, states_ND, targets_N, distribution)
        else:
            sums = in_chunks(head.logits, losses, states_ND, targets_N, distribution, head.linear.out_features)
        return {loss.name: one for loss, one in zip(losses, sums.unbind(), strict=True)}

    def _inputs(
        self, outputs: Any, targets_BT: torch.Tensor, targets_N: torch.Tensor, taught: Taught | None,
        places: torch.Tensor | None,
    ) -> LossInputs:  # fmt: skip
        """The inputs of losses on the whole batch."""
        # 1 for each position up to the last target that counts, 0 for padding and for rows that fill up a batch
        attended_BT = (targets_BT >= 0).int().flip(1).cummax(dim=1).values.flip(1)
        own = {block: at_places(states, places).flatten(0, 1) for block, states in self._kept.items()}
        self._kept.clear()
        return LossInputs(
            targets_N, attended_BT, getattr(outputs, "router_logits", None) or (), own,
            {} if taught is None else taught.hidden_states,
        )  # fmt: skip


def _predicted(targets_BT: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
    """The targets at `places` (B, L); a negative place is a token that no input predicts."""
    if places is None:
        return targets_BT
    return at_places(targets_BT, places).masked_fill(places < 0, IGNORED)


def at_places(values_BT: torch.Tensor, places_BL: torch.Tensor | None) -> torch.Tensor:
    """The values at some places of each sequence: (B, T, ...) to (B, L, ...); all of them without `places_BL`.

    A negative place has the value of place 0.
    """
    if places_BL is None:
        return values_BT
    rows_B1 = torch.arange(len(places_BL), device=places_BL.device)[:, None]
    return values_BT[rows_B1, places_BL.clamp(min=0)]


class _Answer:
    """A teacher's outputs, outside of the model's compiled code and without gradients."""

    def __init__(self, taught: Taught) -> None:
        self._taught = taught
        self.hidden_states = taught.hidden_states

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def distribution(self, tokens: slice) -> Distribution:
        """The distribution of some tokens."""
        with torch.no_grad():
            return self._taught.distribution(tokens)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _ask(
    teacher: TeacherOutputs, inputs_BT: torch.Tensor, stored: tuple[torch.Tensor, ...], positions: torch.Tensor | None,
    places: torch.Tensor | None,
) -> Taught:  # fmt: skip
    with torch.no_grad():
        return _Answer(teacher(inputs_BT, *stored, positions=positions, places=places))


def checkpoint_activations(blocks: Sequence[torch.nn.Module]) -> Callable[[], None]:
    """Let each block keep only its input for the backward pass and compute the rest again. Returns what undoes it.

    Source: Chen et al., Training deep nets with sublinear memory cost, 2016.
    """

    def again(block: torch.nn.Module, forward: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():
                return forward(*args, **kwargs)
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)

        return run

    return replace_forwards(blocks, again)
