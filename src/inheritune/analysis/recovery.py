"""Recovery: a copy of the model is trained a little while its blocks are dropped one after the other."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch

from inheritune.analysis.block_skipping import Partial
from inheritune.arch import block_modules
from inheritune.data import Examples, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RATE = 3e-4
"""The learning rate: that of the paper's low-data experiment (arXiv 2404.08634 v1)."""

STEP = 512
"""Tokens of a step; a longer sequence is one."""


class Recovery:
    """AdamW on a model's blocks, on calibration sequences in turn, `sequences` of them at a time, in small steps.

    Several small steps reduce the loss more than one large step on the same tokens, in nearly the same time. Parameters
    outside the blocks stay fixed. The model changes, so give a copy. Memory: gradients and two states a parameter, in
    its dtype.
    """

    def __init__(self, model: "PreTrainedModel", rows: Rows, sequences: int, micro_batch: int = 8) -> None:
        self._blocks = block_modules(model)
        model.requires_grad_(False)
        weights = dict.fromkeys(weight for block in self._blocks for weight in block.parameters())
        self._weights = [weight.requires_grad_() for weight in weights if weight.is_floating_point()]
        self._optimizer = torch.optim.AdamW(self._weights, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        self._rows, self._micro_batch = rows.rows(order.numpy()), micro_batch
        self._sequences, self._taken = min(sequences, len(rows)), 0
        self.steps = 0

    def train(self, partial: Partial, kept: Collection[int]) -> None:
        """Train the blocks `kept` on the next sequences, with the losses of `partial`."""
        trained = {self._blocks[number] for number in kept}
        for weight in (weight for block in self._blocks if block not in trained for weight in block.parameters()):
            weight.grad = None  # otherwise the optimizer's momentum would still move it
        at = (np.arange(self._sequences) + self._taken) % len(self._rows)
        self._taken += self._sequences
        each = max(1, STEP // self._rows.sequence_length)
        for first in range(0, len(at), each):
            self._step(partial, kept, self._rows.rows(at[first : first + each]).examples())

    def _step(self, partial: Partial, kept: Collection[int], examples: Examples) -> None:
        # cached weights have no gradients before the step, and are out of date after it
        torch.clear_autocast_cache()
        for first in range(0, len(examples), self._micro_batch):
            part = examples.part(first, first + self._micro_batch)
            share = part.counted / max(1, examples.counted)
            loss = partial.loss_with_gradients(kept, part.to(partial.model.device)) * share
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)  # faster than freeing the memory and allocating it again
        torch.clear_autocast_cache()
        self.steps += 1
