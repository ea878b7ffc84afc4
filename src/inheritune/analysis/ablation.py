"""What blocks are worth, tried out: losses with a block skipped, and read at every depth."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from inheritune.analysis.block_skipping import Partial
from inheritune.analysis.measures import block_influence
from inheritune.data import Rows

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from inheritune.analysis.recovery import Recovery

States = list["list[torch.Tensor]"]


class Trials:
    """A model on N calibration sequences, with some of its blocks dropped so far.

    The hidden states before every block are kept, so that a trial computes only what comes behind the block it leaves
    out: N T (L + 1) hidden vectors of memory. `losses` (N,) are those of the blocks `kept`, in nats a token. With
    `recovery` the model, which has to be the recovery's copy, changes in `recover`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        rows: Rows,
        micro_batch: int = 8,
        recovery: "Recovery | None" = None,
    ) -> None:
        import torch

        self._parts = [Partial(model, examples) for _, examples in rows.batches(micro_batch)]
        self.total = self._parts[0].count
        self.kept = list(range(self.total))
        self.losses = torch.cat([part.whole for part in self._parts])
        self._states: States = [part.states for part in self._parts]
        self.resumes = all(part.resumes for part in self._parts)
        self.runs = 0
        """Trials so far."""
        self._recovery = recovery

    def without(self, block: int) -> "tuple[torch.Tensor, States]":
        """Losses (N,) of the blocks kept so far less this one, and the hidden states behind it, for `drop`."""
        import torch

        self.runs += 1
        rest = [other for other in self.kept if other != block]
        found, states = [], []
        for part, before in zip(self._parts, self._states, strict=True):
            behind: list[torch.Tensor] = []
            found.append(part.losses(rest, block + 1, before[block], behind))
            states.append(behind)
        return torch.cat(found), states

    def drop(self, block: int, losses: "torch.Tensor", states: States) -> None:
        """Leave a block out from now on, with what `without` has given for it."""
        self.kept.remove(block)
        self.losses = losses
        for held, behind in zip(self._states, states, strict=True):
            if block + 1 < len(held) - 1:
                held[block + 1 :] = behind
            else:
                held[-1] = held[block]

    def drop_again(self, block: int) -> None:
        """Leave out a block that an earlier search has dropped; no trial is counted."""
        runs = self.runs
        self.drop(block, *self.without(block))
        self.runs = runs

    def recover(self) -> None:
        """Let the blocks kept so far train a little, where there is a recovery."""
        import torch

        if self._recovery is None:
            return
        self._recovery.train(self._parts[0], self.kept)
        losses = []
        for at, part in enumerate(self._parts):
            self._states[at] = []
            losses.append(part.losses(self.kept, states=self._states[at]))
        self.losses = torch.cat(losses)

    def influence(self, block: int) -> float:
        """Block influence among the blocks kept so far (mean over sequences)."""
        moved = [block_influence(states[block], states[block + 1]) for states in self._states]
        return float(sum(part.sum() for part in moved)) / len(self.losses)

    def at_depth(self, blocks: int) -> "torch.Tensor":
        """Losses (N,) when the hidden state behind the first `blocks` blocks goes straight to final norm and head."""
        import torch

        first: Collection[int] = [block for block in self.kept if block < blocks]
        return torch.cat(
            [part.losses(first, blocks, states[blocks]) for part, states in zip(self._parts, self._states, strict=True)]
        )


def products_in(precision: str, model: "PreTrainedModel") -> AbstractContextManager[Any]:
    """The context for losses with products in `precision` (float32 or bfloat16); around many, as weights are rounded
    once in it.
    """
    import torch

    if precision == "float32":
        return nullcontext()
    return torch.autocast(model.device.type, torch.bfloat16)


def skip_increases(trials: Trials, blocks: Sequence[int]) -> "torch.Tensor":
    """How much the losses rise when each of `blocks` alone is left out, (len(blocks), N), in nats a token."""
    import torch

    return torch.stack([trials.without(block)[0] - trials.losses for block in blocks])
