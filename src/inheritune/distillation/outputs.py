"""A teacher's outputs as a training asks for them: computed by the teacher with every batch, or read from the disk."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from inheritune.arch import check_room, in_dtype, split_head
from inheritune.data import Array, Tokens, nothing_stored
from inheritune.distillation.layout import Layout
from inheritune.losses import Distribution, log_distribution
from inheritune.recipe import Distillation
from inheritune.runtime import Runtime
from inheritune.training import at_places, inside_documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OnlineOutputs:
    """A teacher that passes every batch itself.

    It is whole on each process, in the type that products are computed in: bfloat16 where `precision` is not float32.
    """

    def __init__(self, model: "PreTrainedModel", settings: Distillation, runtime: Runtime, precision: str) -> None:
        """Takes the model over: moves it to the device, in that type."""
        self.settings, self._device = settings, runtime.device
        kind = torch.float32 if precision == "float32" else torch.bfloat16
        self._model = in_dtype(model, kind).to(device=runtime.device).eval().requires_grad_(False)
        self._head = split_head(self._model)

    def stored(self, starts: Array) -> tuple[torch.Tensor, ...]:
        """Nothing."""
        return nothing_stored(starts)

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> Callable[[slice], Distribution]:  # fmt: skip
        """Passes the batch; the last product, with the head, is left to what is returned."""
        head, settings = self._head, self.settings
        with torch.autocast(self._device, enabled=False):  # so that stored and online outputs are the same
            given = {"input_ids": inputs_BT}
            if positions is None:
                check_room(self._model, inputs_BT.shape[1])
            else:
                given = inside_documents(self._model, inputs_BT, positions)
            if head is None:
                states_BTD = self._model(**given, use_cache=False).logits
            else:
                states_BTD = head.base(**given, use_cache=False).last_hidden_state
            states_ND = at_places(states_BTD, places).flatten(0, 1)
            if head is not None and head.scale != 1.0:
                states_ND = states_ND * head.scale

        def part(tokens: slice) -> Distribution:
            with torch.autocast(self._device, enabled=False):
                logits_NV = states_ND[tokens] if head is None else head.linear(states_ND[tokens])
                return log_distribution(logits_NV, settings.temperature, settings.top_k)

        return part


class StoredOutputs:
    """Outputs that were computed once, addressed by a sequence's place in the training text."""

    def __init__(self, settings: Distillation, layout: Layout, words: Tokens) -> None:
        self.settings, self._layout, self._words = settings, layout, words

    def stored(self, starts: Array) -> tuple[torch.Tensor, ...]:
        """Log-probabilities (B, T, K + 1) in float16, and indices (B, T, K), or (B, T, V) alone.

        Raises RunError that names a file which cannot be read any more.
        """
        layout = self._layout
        words = self._words.rows(starts // layout.sequence_length * layout.words, layout.words)
        values, indices = layout.unpack(words)
        found = torch.from_numpy(values)
        return (found,) if indices is None else (found, torch.from_numpy(indices))

    def __call__(
        self, inputs_BT: torch.Tensor, *stored: torch.Tensor, positions: torch.Tensor | None = None,
        places: torch.Tensor | None = None,
    ) -> Callable[[slice], Distribution]:  # fmt: skip
        """What was stored of the tokens that these inputs predict, made to sum up to one again."""
        values_NK, *rest = (tensor.flatten(0, 1) for tensor in stored)

        def part(tokens: slice) -> Distribution:
            log_probabilities = torch.log_softmax(values_NK[tokens].float(), dim=1)
            return Distribution(log_probabilities, rest[0][tokens] if rest else None)

        return part
