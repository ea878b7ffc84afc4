"""What blocks are worth, tried out: losses with a block skipped, and read at every depth."""

from typing import TYPE_CHECKING

import torch

from inheritune.analysis.block_skipping import Partial
from inheritune.analysis.measures import block_influence
from inheritune.analysis.recovery import Recovery
from inheritune.data import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Trials:
    """A model on N calibration sequences in micro-batches ("parts"), with some of its blocks dropped so far.

    The hidden states before every block are kept, so that a trial computes only what comes after the block it skips:
    N T (L + 1) hidden vectors of memory. A part whose states are out of date, after a drop or a recovery, is computed
    again when it is next asked for. The model that `recover` trains has to be the copy of `recovery`.
    """

    def __init__(
        self, model: "PreTrainedModel", rows: Rows, micro_batch: int = 8, recovery: Recovery | None = None
    ) -> None:
        self._parts: list[_Part] = []
        for _, examples in rows.batches(micro_batch):
            self._parts.append(_Part(Partial(model, examples, self._parts[0].partial if self._parts else None)))
        first = self._parts[0].partial
        self.total, self.resumes = first.count, first.resumes
        self.kept = list(range(self.total))
        self.whole_loss = float(self.losses.mean())
        self._recovery = recovery

    @property
    def parts(self) -> int:
        """How many parts the sequences are divided into."""
        return len(self._parts)

    @property
    def losses(self) -> torch.Tensor:
        """The losses (N,) of the blocks kept so far, in nats a token."""
        return torch.cat([part.partial.means(self._current(part).losses) for part in self._parts])

    def without(self, block: int) -> torch.Tensor:
        """The losses (N,) of the blocks kept so far without this one."""
        return torch.cat([part.partial.means(self._skip(part, block)) for part in self._parts])

    def rises(self, block: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """How much the loss of each token (S,) of a part rises when a block is skipped too.

        First over the losses of the blocks kept so far, then over those of the whole model.
        """
        part = self._parts[number]
        losses = self._skip(part, block)
        counts = part.partial.counts_BT
        return (losses - self._current(part).losses)[counts], (losses - part.whole)[counts]

    def drop(self, block: int) -> None:
        """Skip a block from now on."""
        self.kept.remove(block)

    def recover(self) -> None:
        """Train the blocks kept so far a little, where there is a recovery."""
        if self._recovery is None:
            return
        self._recovery.train(self._parts[0].partial, self.kept)
        for part in self._parts:
            part.kept = None

    def influence(self, block: int) -> float:
        """Block influence among the blocks kept so far: the mean over the sequences of the first part."""
        states = self._current(self._parts[0]).states
        return float(block_influence(states[block], states[block + 1]).mean())

    def at_depth(self, blocks: int) -> torch.Tensor:
        """Losses (N,) when the hidden state after the first `blocks` blocks goes straight to final norm and head."""
        first = [block for block in self.kept if block < blocks]
        return torch.cat(
            [part.partial.losses(first, blocks, self._current(part).states[blocks]) for part in self._parts]
        )

    def skip_increases(self) -> torch.Tensor:
        """How much the losses rise when each of the blocks kept so far is skipped alone, (L, N), in nats a token."""
        return torch.stack([self.without(block) - self.losses for block in self.kept])

    def _skip(self, part: "_Part", block: int) -> torch.Tensor:
        """The losses of a part's tokens (B, T) without this block."""
        before = self._current(part).states[block]
        return part.partial.token_losses([other for other in self.kept if other != block], block + 1, before)

    def _current(self, part: "_Part") -> "_Part":
        """The part with the losses and hidden states of the blocks kept so far."""
        if part.kept is None:
            part.states = []
            part.losses = part.partial.token_losses(self.kept, states=part.states)
        elif part.kept != self.kept:
            first = next(block for block in part.kept if block not in self.kept)
            behind: list[torch.Tensor] = []
            part.losses = part.partial.token_losses(self.kept, first + 1, part.states[first], behind)
            part.states[first + 1 :] = behind or [part.states[first]]
        part.kept = list(self.kept)
        return part


class _Part:
    """Some of the sequences, with the hidden states and the losses (B, T) of the blocks `kept`; None: out of date."""

    def __init__(self, partial: Partial) -> None:
        self.partial, self.states = partial, partial.states
        self.whole = self.losses = partial.whole_BT
        self.kept: list[int] | None = list(range(partial.count))
