"""Figures of one pass over sequences: what heads do, and how far blocks move the hidden states."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from inheritune.analysis.attention import attention_seen, eager_attention
from inheritune.analysis.measures import column_mass, depth_distances, row_entropy, sink_weight
from inheritune.analysis.rank import approximate_ranks, check_tau
from inheritune.arch import block_modules, check_room, hidden_of, split_head
from inheritune.data import Rows, check_prefix_fits
from inheritune.errors import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


TOGETHER = 2**24
"""Attention weights that are collected before their ranks are computed: 64 MiB of float32."""


@dataclass(frozen=True)
class Passed:
    """Figures of every sequence. `heads`: for each block ranks, mass, sink and entropy (N, H, len(tau) + 3); None
    where no attention is seen. `influence` (N, L); `distances` (N, L + 1, L + 1); `rank_seconds` were spent on ranks.
    """

    heads: list[torch.Tensor | None]
    influence: torch.Tensor
    distances: torch.Tensor
    rank_seconds: float


def pass_through(model: "PreTrainedModel", rows: Rows, tau: Sequence[float] = (0.9,), micro_batch: int = 8) -> Passed:
    """Run the model on the inputs of N sequences, and reduce the attention of each block to figures.

    Memory: the attention of one block for a micro-batch (or 64 MiB for several blocks, if one takes less), and the
    hidden states at all depths. The model has to be in evaluation mode. Raises InputError for a tau outside (0, 1),
    RunError for hidden states that are not finite.
    """
    check_tau(tau)
    check_prefix_fits(rows.packing, model.config.vocab_size, model.config.name_or_path or type(model).__name__)
    blocks = block_modules(model)
    seen = _Seen(tau, len(blocks))
    influence, distances, order = [], [], []
    head = split_head(model)
    with torch.no_grad(), eager_attention(model), attention_seen(model, seen.see):
        for numbers, examples in rows.batches(micro_batch):
            order.extend(numbers.tolist())
            check_room(model, examples.inputs.shape[1])
            with _states(blocks) as states:
                head.outputs(input_ids=examples.inputs.to(model.device))
            seen.micro_batches += 1
            _check_finite(states)
            moved_BL, apart_BLL = depth_distances(states)
            influence.append(moved_BL.cpu())
            distances.append(apart_BLL.cpu())
    back = torch.tensor(order).argsort()  # batches are in the order of the sequences' lengths
    heads = [None if one is None else one[back] for one in seen.heads()]
    return Passed(heads, torch.cat(influence)[back], torch.cat(distances)[back], seen.rank_seconds)


class _Seen:
    """Reduces attention to figures. Ranks are computed for many matrices at once, as that takes less time: those of
    several blocks of a small model, or one block of a large one.
    """

    def __init__(self, tau: Sequence[float], blocks: int) -> None:
        self.tau, self.blocks = tau, blocks
        self.micro_batches = 0  # that have passed
        self.rank_seconds = 0.0
        self._waiting: list[tuple[tuple[int, int], torch.Tensor, torch.Tensor]] = []
        self._figures: dict[tuple[int, int], list[torch.Tensor]] = {}  # a block may have several attentions

    def see(self, number: int, weights_BHTT: torch.Tensor) -> None:
        others = (column_mass(weights_BHTT, self.tau[0]), sink_weight(weights_BHTT), row_entropy(weights_BHTT))
        if sum(weights.numel() for _, weights, _ in self._waiting) + weights_BHTT.numel() > TOGETHER:
            self._rank()
        others_BHF = torch.stack([one.double() for one in others], -1).cpu()
        self._waiting.append(((number, self.micro_batches), weights_BHTT, others_BHF))

    def heads(self) -> list[torch.Tensor | None]:
        """The figures of each block, (N, H, len(tau) + 3); None where no attention was seen."""
        self._rank()
        return [
            torch.cat([torch.cat(self._figures[number, at], 1) for at in range(self.micro_batches)])
            if (number, 0) in self._figures
            else None
            for number in range(self.blocks)
        ]

    def _rank(self) -> None:
        began = time.monotonic()
        ranks = approximate_ranks([weights_BHTT for _, weights_BHTT, _ in self._waiting], self.tau)
        ranks = [ranks_BHK.double().cpu() for ranks_BHK in ranks]
        self.rank_seconds += time.monotonic() - began
        for ranks_BHK, (place, _, others_BHF) in zip(ranks, self._waiting, strict=True):
            self._figures.setdefault(place, []).append(torch.cat([ranks_BHK, others_BHF], -1))
        self._waiting.clear()


def attention_of(
    model: "PreTrainedModel", inputs_T: torch.Tensor, wanted: Sequence[tuple[int, int]]
) -> list[torch.Tensor]:
    """The attention (T, T) of heads, each named by block and head, on one sequence of token ids (T,)."""
    seen: dict[int, list[torch.Tensor]] = {}
    blocks = {block for block, _ in wanted}

    def see(number: int, weights_1HTT: torch.Tensor) -> None:
        if number in blocks:
            seen.setdefault(number, []).append(weights_1HTT[0].float().cpu())

    with torch.no_grad(), eager_attention(model), attention_seen(model, see):
        model(input_ids=inputs_T[None], use_cache=False)
    return [torch.cat(seen[block])[head] for block, head in wanted]


@contextmanager
def _states(blocks: Sequence[torch.nn.Module]) -> Iterator[list[torch.Tensor]]:
    """A list that receives each block's input and the last one's output in a forward, as (B, T, D)."""
    states: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []  # a block may run several times; the last output counts

    def enter(block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(_by_position(hidden_of(args, kwargs)))

    def leave(block: Any, args: Any, returned: Any) -> None:
        outputs.append(_by_position(returned[0] if isinstance(returned, tuple) else returned))

    with ExitStack() as hooks:
        for block in dict.fromkeys(blocks):
            hooks.enter_context(block.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.enter_context(blocks[-1].register_forward_hook(leave))
        yield states
        states.append(outputs[-1])


def _by_position(hidden: torch.Tensor) -> torch.Tensor:
    """Hidden states as (B, T, D); those of several streams (S, B, T, D) are concatenated for each position."""
    return hidden if hidden.dim() == 3 else hidden.permute(1, 2, 0, 3).flatten(2)


def _check_finite(states: Sequence[torch.Tensor]) -> None:
    for depth, state in enumerate(states):
        if not bool(state.isfinite().all()):
            place = "the embeddings" if depth == 0 else f"block {depth - 1}"
            raise RunError("analysis", f"the output of {place} is not finite", "check the model's weights and dtype")
