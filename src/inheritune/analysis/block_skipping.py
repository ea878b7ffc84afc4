"""Forwards that skip some blocks, or begin at a block with hidden states from an earlier pass."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch

from inheritune.arch import Head, block_modules, check_room, hidden_of, replaced_forwards, split_head
from inheritune.data import IGNORED, Examples
from inheritune.errors import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SAME = 1e-3  # nats: how much rounding may change a loss when a forward begins with stored hidden states


def losses_of_tokens(
    model: "PreTrainedModel", head: Head, inputs_BT: torch.Tensor, targets_BT: torch.Tensor
) -> torch.Tensor:
    """The loss of each token (B, T) in nats, without holding all logits where the model's `head` can be split off."""
    check_room(model, inputs_BT.shape[1])
    return head.token_losses(head.states(head.outputs(input_ids=inputs_BT)), targets_BT)


class Partial:
    """A model on one batch of examples, with any of its blocks skipped.

    A skipped block returns its input. The model's own forward runs, so masks, positions and whatever else an
    architecture gives its blocks are right. The model does not change; it has to be in evaluation mode. `whole_BT` has
    the losses of tokens with all blocks, `whole` their means (B,), `states` the input of each block and the last
    output; `counts_BT` says which tokens count. `like` is the same model on other examples: what that found out
    about the model is not tried again. Raises RunError for a loss that is not finite.
    """

    def __init__(self, model: "PreTrainedModel", examples: Examples, like: "Partial | None" = None) -> None:
        self.model, self.blocks = model, block_modules(model)
        self.examples = examples.to(model.device)
        self.count = len(self.blocks)
        self.counts_BT = self.examples.targets != IGNORED
        self._head: Head = split_head(model) if like is None else like._head
        self._extras: dict[int, tuple[Any, ...] | None] = {}  # what blocks return beside hidden states; None: nothing
        everything = range(self.count)
        self.resumes = False
        self.states: list[torch.Tensor] = []
        self.whole_BT = self.token_losses(everything, states=self.states)
        self.whole = self.means(self.whole_BT)
        if not bool(self.whole.isfinite().all()):
            what = f"the loss of a sequence is {self.whole[~self.whole.isfinite()][0].item()}"
            raise RunError(
                "analysis", what, "check the model's weights, and whether its head forbids tokens of the text"
            )
        if like is not None:
            self.resumes = like.resumes
            return
        # Whether blocks take only their input from the blocks before them: tried at the second block, in the middle
        # and at the last. If they take more, every forward begins at the first block, which is slower.
        self.resumes = True
        places = {min(1, self.count - 1), self.count // 2, self.count - 1}
        parts = [self.losses(everything, place, self.states[place]) for place in sorted(places)]
        self.resumes = all(bool(((self.whole - part).abs() < _SAME).all()) for part in parts)

    def losses(
        self, kept: Collection[int], begin: int = 0, hidden: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The mean loss of each sequence (B,) in nats a token, in float64: the means of `token_losses`."""
        return self.means(self.token_losses(kept, begin, hidden, states))

    def means(self, losses_BT: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of each sequence (B,) that count, in float64."""
        return losses_BT.double().sum(1) / self.examples.counts

    def token_losses(
        self, kept: Collection[int], begin: int = 0, hidden: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The loss of each token (B, T) in nats with the blocks `kept` alone.

        With `hidden`, the input of block `begin`, the forward begins there; `kept` must name the blocks before it too.
        The input of each block from `begin` on, kept or not, and the last output are appended to `states`.
        """
        start = begin if hidden is not None and self.resumes else 0
        with torch.no_grad(), self._running(set(kept), start, hidden, begin, states):
            return losses_of_tokens(self.model, self._head, self.examples.inputs, self.examples.targets)

    def loss_with_gradients(self, kept: Collection[int], examples: Examples) -> torch.Tensor:
        """The mean loss of other examples, in nats a token, with the blocks `kept` alone, and gradients."""
        with torch.enable_grad(), self._running(set(kept), 0, None, 0, None):
            losses_BT = losses_of_tokens(self.model, self._head, examples.inputs, examples.targets)
            return losses_BT.sum() / max(1, examples.counted)

    def _running(
        self, kept: set[int], start: int, hidden: torch.Tensor | None, note: int, states: Any
    ) -> AbstractContextManager[None]:
        """Inside, the blocks before `start` return `hidden`, and those not in `kept` return their input."""

        def new(place: int, own: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                if place < start:
                    return self._returned(place, hidden)
                before = hidden_of(args, kwargs)
                if states is not None and place >= note:
                    states.append(before)
                if place not in kept:
                    result = self._returned(place, before)
                else:
                    result = own(*args, **kwargs)
                    self._extras.setdefault(place, tuple(result[1:]) if isinstance(result, tuple | list) else None)
                if states is not None and place == self.count - 1:
                    states.append(hidden_of(result))
                return result

            return run

        return replaced_forwards(self.blocks, new)

    def _returned(self, place: int, hidden: Any) -> Any:
        """What the block at `place` returns when it passes on `hidden`."""
        extras = self._extras.get(place, next(iter(self._extras.values()), None))
        return hidden if extras is None else (hidden, *extras)
