"""A teacher's outputs for a training: computed by the teacher for every batch, or read from the disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from inheritune.arch import block_modules, in_dtype, keep_outputs, split_head
from inheritune.data import Array, Tokens, nothing_stored
from inheritune.distillation.layout import Layout
from inheritune.losses import TeacherNeeds
from inheritune.losses.functional import Distribution, log_distribution
from inheritune.runtime import Runtime
from inheritune.training import at_places, model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LogitsOf = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Computed:
    """The outputs for one batch: final hidden states (N, D), from which `logits_of` makes the distribution."""

    states_ND: torch.Tensor
    logits_of: LogitsOf
    needs: TeacherNeeds
    hidden_states: Mapping[int, torch.Tensor]

    def distribution(self, tokens: slice) -> Distribution:
        """The distribution of some tokens."""
        assert self.needs.temperature is not None
        states_ND = self.states_ND[tokens]
        with torch.autocast(states_ND.device.type, enabled=False):
            return log_distribution(self.logits_of(states_ND), self.needs.temperature, self.needs.top_k)


@dataclass(frozen=True)
class _TopK:
    """The stored outputs for one batch, with log-probabilities (N, K + 1) in float16 and indices (N, K)."""

    values_NK: torch.Tensor
    indices_NK: torch.Tensor
    hidden_states: Mapping[int, torch.Tensor]

    def distribution(self, tokens: slice) -> Distribution:
        """The distribution of some tokens, normalised again after the rounding to float16."""
        return Distribution(torch.log_softmax(self.values_NK[tokens].float(), dim=1), self.indices_NK[tokens])


class OnlineOutputs:
    """A teacher that runs on every batch, whole on each process, in bfloat16 unless `precision` is float32.

    `linear` is the layer that makes logits of its final hidden states; None where these are the logits, as the teacher
    cannot be split (`arch.split_head`).
    """

    stored = staticmethod(nothing_stored)

    def __init__(self, model: "PreTrainedModel", needs: TeacherNeeds, runtime: Runtime, precision: str) -> None:
        """Take over `model`: it is moved to the device and cast."""
        self.needs, self._device = needs, runtime.device
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self._model = in_dtype(model, dtype).to(device=runtime.device).eval().requires_grad_(False)
        self._head = split_head(self._model)
        self.linear = self._head.linear
        self._kept: dict[int, torch.Tensor] = {}
        keep_outputs(block_modules(self._model), needs.hidden_states, self._kept)

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> Computed:  # fmt: skip
        """Run the teacher on the batch. The product with the head is computed in `distribution`."""
        with torch.autocast(self._device, enabled=False):  # so that stored and online outputs are the same
            outputs = self._head.outputs(**model_inputs(self._model, inputs_BT, positions))
            states_ND = at_places(self._head.states(outputs), places).flatten(0, 1)
        kept = {block: at_places(states, places).flatten(0, 1) for block, states in self._kept.items()}
        self._kept.clear()
        return Computed(states_ND, self._head.logits, self.needs, kept)


class StoredOutputs:
    """Outputs that were computed once, by the place of a sequence in the training text.

    `linear` makes logits of final hidden states, as in `OnlineOutputs`, on the device.
    """

    def __init__(self, layout: Layout, words: Tokens, needs: TeacherNeeds, linear: "torch.nn.Linear | None") -> None:
        self._layout, self._words, self._needs = layout, words, needs
        self._logits_of: LogitsOf = torch.nn.Identity() if linear is None else linear

    def stored(self, starts: Array) -> tuple[torch.Tensor, ...]:
        """The arrays (B, T, columns) of the layout, for the sequences that begin at these tokens of the text.

        Raises RunError that names a file that cannot be read.
        """
        layout = self._layout
        words = self._words.rows(starts // layout.sequence_length * layout.words, layout.words)
        return tuple(_tensor(array) for array in layout.unpack(words))

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> Computed | _TopK:  # fmt: skip
        """The stored outputs of the tokens that these inputs predict."""
        arrays, layout = [tensor.flatten(0, 1) for tensor in stored], self._layout
        first = len(arrays) - len(layout.blocks)
        hidden_states = dict(zip(layout.blocks, arrays[first:], strict=True))
        if layout.top_k is not None:
            return _TopK(arrays[0], arrays[1], hidden_states)
        states_ND = arrays[0] if layout.states else arrays[0][:, :0]  # without a loss on logits there are none
        return Computed(states_ND, self._logits_of, self._needs, hidden_states)


def packed(taught: Computed, layout: Layout, logits: int) -> list[bytes]:
    """The stored form of each sequence of a batch, with so many `logits` in memory at once."""
    arrays = [taught.states_ND] if layout.states else []
    if layout.top_k is not None:
        count, size = len(taught.states_ND), max(1, logits // layout.vocabulary)
        parts = [taught.distribution(slice(first, first + size)) for first in range(0, count, size)]
        arrays = [torch.cat([part.log_probabilities.half() for part in parts])]
        arrays += [torch.cat([part.indices for part in parts if part.indices is not None])]
    arrays += [taught.hidden_states[block] for block in layout.blocks]
    rows = [_array(tensor, layout) for tensor in arrays]
    length = layout.sequence_length
    return [
        layout.pack([row[first : first + length] for row in rows]) for first in range(0, len(taught.states_ND), length)
    ]


def _array(tensor: torch.Tensor, layout: Layout) -> Array:
    """What the layout stores of a tensor. Hidden states that a bfloat16 teacher has in float32 are rounded."""
    if tensor.dtype in (torch.float32, torch.bfloat16):
        dtype = torch.float32 if layout.precision == "float32" else torch.bfloat16
        tensor = tensor.to(dtype)
    array: Array = (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
    return array


def _tensor(array: Array) -> torch.Tensor:
    """A tensor of a layout's array: bfloat16 for int16, and int32 for indices."""
    if array.dtype.kind == "u":
        array = array.astype(np.int32)
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.int16 else tensor
