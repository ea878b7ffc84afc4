"""What blocks are worth, tried out: losses with a block skipped, and read at every depth."""

from typing import TYPE_CHECKING

import torch

from inheritune.analysis.block_skipping import Partial
from inheritune.analysis.measures import block_influence
from inheritune.analysis.recovery import Recovery
from inheritune.data import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

States = list[list[torch.Tensor]]


class Trials:
    """A model on N calibration sequences, with some of its blocks dropped so far.

    The hidden states before every block are kept, so that a trial computes only what comes after the block it skips:
    N T (L + 1) hidden vectors of memory. `losses` (N,) are those of the blocks `kept`, in nats a token. The model
    that `recover` trains has to be the copy of `recovery`.
    """

    def __init__(
        self, model: "PreTrainedModel", rows: Rows, micro_batch: int = 8, recovery: Recovery | None = None
    ) -> None:
        self._parts = [Partial(model, examples) for _, examples in rows.batches(micro_batch)]
        self.total = self._parts[0].count
        self.kept = list(range(self.total))
        self.losses = torch.cat([part.whole for part in self._parts])
        self._states: States = [part.states for part in self._parts]
        self.resumes = all(part.resumes for part in self._parts)
        self._recovery = recovery

    def without(self, block: int) -> tuple[torch.Tensor, States]:
        """The losses (N,) of the blocks kept so far without this one, and the hidden states after it, for `drop`."""
        rest = [other for other in self.kept if other != block]
        losses, states = [], []
        for part, before in zip(self._parts, self._states, strict=True):
            behind: list[torch.Tensor] = []
            losses.append(part.losses(rest, block + 1, before[block], behind))
            states.append(behind)
        return torch.cat(losses), states

    def drop(self, block: int, losses: torch.Tensor, states: States) -> None:
        """Skip a block from now on; `losses` and `states` are what `without` returned for it."""
        self.kept.remove(block)
        self.losses = losses
        for held, behind in zip(self._states, states, strict=True):
            if block + 1 < len(held) - 1:
                held[block + 1 :] = behind
            else:
                held[-1] = held[block]

    def recover(self) -> None:
        """Train the blocks kept so far a little, where there is a recovery."""
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

    def at_depth(self, blocks: int) -> torch.Tensor:
        """Losses (N,) when the hidden state after the first `blocks` blocks goes straight to final norm and head."""
        first = [block for block in self.kept if block < blocks]
        return torch.cat(
            [part.losses(first, blocks, states[blocks]) for part, states in zip(self._parts, self._states, strict=True)]
        )

    def skip_increases(self) -> torch.Tensor:
        """How much the losses rise when each of the blocks kept so far is skipped alone, (L, N), in nats a token."""
        return torch.stack([self.without(block)[0] - self.losses for block in self.kept])
