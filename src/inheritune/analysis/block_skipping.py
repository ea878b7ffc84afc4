"""Forwards in which some blocks are left out, or that begin behind a block with hidden states from before."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inheritune.analysis.attention import hidden_of
from inheritune.arch import Head, block_modules, check_room, split_head
from inheritune.data import Examples
from inheritune.errors import RunError
from inheritune.losses import linear_token_losses, token_losses

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SAME = 1e-3  # nats: what a loss may change by rounding when a forward begins with stored hidden states


def losses_of_tokens(
    model: "PreTrainedModel", head: Head | None, inputs_BT: "torch.Tensor", targets_BT: "torch.Tensor"
) -> "torch.Tensor":
    """The loss of each token (B, T) in nats, never holding all logits where the model's `head` can be taken alone."""
    check_room(model, inputs_BT.shape[1])
    if head is None:
        return token_losses(model(input_ids=inputs_BT, use_cache=False).logits, targets_BT)
    hidden_BTD = head.base(input_ids=inputs_BT, use_cache=False).last_hidden_state
    linear, scaled_ND = head.linear, (hidden_BTD * head.scale).flatten(0, 1)
    return linear_token_losses(scaled_ND, linear.weight, linear.bias, targets_BT.flatten()).view(targets_BT.shape)


class Partial:
    """A model on one batch of examples, of which any blocks may be left out.

    A block that is left out hands on its input. It is the model's own forward that runs, so masks, positions and what
    else an architecture gives its blocks are as they should be. Nothing of the model is changed; it has to be in
    evaluation mode. `whole` has the losses (B,) of all blocks, `states` the input of each block and the last output.
    Raises RunError for a loss that is not finite.
    """

    def __init__(self, model: "PreTrainedModel", examples: Examples) -> None:
        self.model, self.blocks = model, block_modules(model)
        self.examples = examples.to(model.device)
        self.count = len(self.blocks)
        self._head = split_head(model)
        self._extras: dict[int, tuple[Any, ...] | None] = {}  # what blocks return beside hidden states; None: nothing
        everything = range(self.count)
        self.resumes = False
        self.states: list[torch.Tensor] = []
        self.whole = self.losses(everything, states=self.states)
        if not bool(self.whole.isfinite().all()):
            what = f"the loss of a sequence is {self.whole[~self.whole.isfinite()][0].item()}"
            raise RunError(
                "analysis", what, "check the model's weights, and whether its head forbids tokens of the text"
            )
        # Whether a block's input is all that it takes from those before it: tried out behind the first, in the middle
        # and before the last. Where it is not so, every forward begins at the first block, which gives the same and
        # takes longer.
        self.resumes = True
        places = {min(1, self.count - 1), self.count // 2, self.count - 1}
        parts = [self.losses(everything, place, self.states[place]) for place in sorted(places)]
        self.resumes = all(bool(((self.whole - part).abs() < _SAME).all()) for part in parts)

    def losses(
        self,
        kept: Collection[int],
        begin: int = 0,
        hidden: "torch.Tensor | None" = None,
        states: "list[torch.Tensor] | None" = None,
    ) -> "torch.Tensor":
        """The mean loss of each sequence (B,) in nats a token, in float64, with the blocks `kept` alone.

        With `hidden`, the forward begins behind block `begin` - 1, which is taken to have returned that; `kept` names
        the blocks before it all the same. The input of each block from `begin` on, kept or not, and the last output are
        appended to `states`.
        """
        import torch

        start = begin if hidden is not None and self.resumes else 0
        with torch.no_grad(), self._running(set(kept), start, hidden, begin, states):
            losses_BT = losses_of_tokens(self.model, self._head, self.examples.inputs, self.examples.targets)
            return losses_BT.double().sum(1) / self.examples.counts

    def loss_with_gradients(self, kept: Collection[int], examples: Examples) -> "torch.Tensor":
        """The mean loss of other examples, in nats a token, with the blocks `kept` alone, and gradients."""
        import torch

        with torch.enable_grad(), self._running(set(kept), 0, None, 0, None):
            losses_BT = losses_of_tokens(self.model, self._head, examples.inputs, examples.targets)
            return losses_BT.sum() / max(1, examples.counted)

    @contextmanager
    def _running(
        self, kept: set[int], start: int, hidden: "torch.Tensor | None", note: int, states: Any
    ) -> Iterator[None]:
        """Inside, the blocks' forwards are ours; a block that stands in the list several times is told by its turn."""
        turns = {block: [at for at, other in enumerate(self.blocks) if other is block] for block in set(self.blocks)}
        left = {block: list(places) for block, places in turns.items()}

        def forward_of(block: Any, own: Any) -> Any:
            def run(*given: Any, **named: Any) -> Any:
                at = left[block].pop(0)
                if at < start:
                    return self._returned(at, hidden)
                before = hidden_of(given, named)
                if states is not None and at >= note:
                    states.append(before)
                if at not in kept:
                    result = self._returned(at, before)
                else:
                    result = own(*given, **named)
                    self._extras.setdefault(at, tuple(result[1:]) if isinstance(result, tuple | list) else None)
                if states is not None and at == self.count - 1:
                    states.append(result[0] if isinstance(result, tuple | list) else result)
                return result

            return run

        before = {block: block.__dict__.get("forward") for block in turns}
        for block in turns:
            block.forward = forward_of(block, block.forward)
        try:
            yield
        finally:
            for block, forward in before.items():
                del block.forward
                if forward is not None:
                    block.forward = forward

    def _returned(self, at: int, hidden: Any) -> Any:
        """What block `at` returns when it hands on `hidden`."""
        extras = self._extras.get(at, next(iter(self._extras.values()), None))
        return hidden if extras is None else (hidden, *extras)
