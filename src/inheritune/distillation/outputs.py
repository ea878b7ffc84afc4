"""A teacher's outputs for a training: computed by the teacher for every batch, or read from the disk."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from inheritune.arch import Head, block_modules, in_dtype, keep_outputs, split_head
from inheritune.data import Array, Tokens, nothing_stored
from inheritune.distillation.layout import Layout
from inheritune.losses import TeacherNeeds
from inheritune.losses.functional import Distribution, log_distribution
from inheritune.runtime import Runtime
from inheritune.training import at_places, model_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OnlineOutputs:
    """A teacher that runs on every batch, whole on each process, in bfloat16 unless `precision` is float32."""

    stored = staticmethod(nothing_stored)

    def __init__(self, model: "PreTrainedModel", needs: TeacherNeeds, runtime: Runtime, precision: str) -> None:
        """Take over `model`: it is moved to the device and cast."""
        self.needs, self._device = needs, runtime.device
        dtype = torch.float32 if precision == "float32" else torch.bfloat16
        self._model = in_dtype(model, dtype).to(device=runtime.device).eval().requires_grad_(False)
        self._head = split_head(self._model)
        self._kept: dict[int, torch.Tensor] = {}
        keep_outputs(block_modules(self._model), needs.hidden_states, self._kept)

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> "_Online":  # fmt: skip
        """Run the teacher on the batch. The product with the head is computed in `distribution`."""
        with torch.autocast(self._device, enabled=False):  # so that stored and online outputs are the same
            outputs = self._head.outputs(**model_inputs(self._model, inputs_BT, positions))
            states_ND = at_places(self._head.states(outputs), places).flatten(0, 1)
        kept = dict(self._kept)
        self._kept.clear()
        return _Online(states_ND, self._head, self.needs, self._device, kept)


@dataclass(frozen=True)
class _Online:
    """The outputs for one batch."""

    states_ND: torch.Tensor
    head: Head
    needs: TeacherNeeds
    device: str
    hidden_states: dict[int, torch.Tensor]

    def distribution(self, tokens: slice) -> Distribution:
        """The distribution of some tokens."""
        assert self.needs.temperature is not None
        with torch.autocast(self.device, enabled=False):
            logits_NV = self.head.logits(self.states_ND[tokens])
            return log_distribution(logits_NV, self.needs.temperature, self.needs.top_k)


class StoredOutputs:
    """Distributions that were computed once, by the place of a sequence in the training text."""

    def __init__(self, layout: Layout, words: Tokens) -> None:
        self._layout, self._words = layout, words

    def stored(self, starts: Array) -> tuple[torch.Tensor, ...]:
        """Log-probabilities (B, T, K + 1) in float16 and indices (B, T, K), or (B, T, V) alone.

        Raises RunError that names a file that cannot be read.
        """
        layout = self._layout
        words = self._words.rows(starts // layout.sequence_length * layout.words, layout.words)
        values, indices = layout.unpack(words)
        stored = torch.from_numpy(values)
        return (stored,) if indices is None else (stored, torch.from_numpy(indices))

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> "_Stored":  # fmt: skip
        """The stored outputs of the tokens that these inputs predict."""
        values_NK, *indices = (tensor.flatten(0, 1) for tensor in stored)
        return _Stored(values_NK, indices[0] if indices else None)


@dataclass(frozen=True)
class _Stored:
    """The outputs for one batch."""

    values_NK: torch.Tensor
    indices_NK: torch.Tensor | None
    hidden_states: dict[int, torch.Tensor] = field(default_factory=dict)

    def distribution(self, tokens: slice) -> Distribution:
        """The distribution of some tokens, normalised again after the rounding to float16."""
        log_probabilities = torch.log_softmax(self.values_NK[tokens].float(), dim=1)
        return Distribution(log_probabilities, None if self.indices_NK is None else self.indices_NK[tokens])
