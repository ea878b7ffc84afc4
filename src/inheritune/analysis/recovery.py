"""What training will mend: a copy of the model is trained a little while its blocks are dropped one after the other."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from inheritune.analysis.partial import Partial

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

RATE = 3e-4
"""The learning rate: that of the paper's low-data experiment (arXiv 2404.08634 v1)."""


class Recovery:
    """AdamW on a model's blocks, a step of `sequences` at a time, on token ids (N, T + 1) taken in turn.

    Embeddings and head, which every choice of blocks shares, stay as they are. The model is changed: give it a copy.
    Memory: gradients and two states a parameter beside it, in its dtype.
    """

    def __init__(self, model: "PreTrainedModel", rows_NT: "torch.Tensor", sequences: int, micro_batch: int = 8) -> None:
        import torch

        shared = [model.get_input_embeddings(), model.get_output_embeddings()]
        for weight in (weight for module in shared if module is not None for weight in module.parameters()):
            weight.requires_grad_(False)
        self._weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
        order = torch.randperm(len(rows_NT), generator=torch.Generator().manual_seed(0))
        self._rows_NT, self._micro_batch = rows_NT[order.to(rows_NT.device)], micro_batch
        self._sequences = min(sequences, len(rows_NT))
        self.steps = 0

    def step(self, partial: Partial, kept: Collection[int]) -> None:
        """One step of the blocks `kept`, with the loss as the model is run by `partial`."""
        import torch

        at = (torch.arange(self._sequences) + self.steps * self._sequences) % len(self._rows_NT)
        rows_BT = self._rows_NT[at.to(self._rows_NT.device)]
        # weights that autocast has rounded before are without gradients, and behind the step they are old
        torch.clear_autocast_cache()
        for part_BT in torch.split(rows_BT, self._micro_batch):
            loss = partial.loss_with_gradients(kept, part_BT) * (len(part_BT) / len(rows_BT))
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)  # to give memory back and get it again takes longer
        torch.clear_autocast_cache()
        self.steps += 1

    def attempts(self, count: int) -> Iterator[int]:
        """0, 1, ... count - 1: each begins with the weights and the sequences of now, and an optimizer that has not
        seen any gradient; behind the last the weights are those of now. Memory: the blocks once more.
        """
        import torch

        before, steps = [weight.detach().clone() for weight in self._weights], self.steps
        for number in range(count):
            for state in self._optimizer.state.values():
                for value in state.values():
                    value.zero_()
            yield number
            self.steps = steps
            with torch.no_grad():
                for weight, was in zip(self._weights, before, strict=True):
                    weight.copy_(was)
            torch.clear_autocast_cache()
