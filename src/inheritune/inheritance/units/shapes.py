"""The best shape of a size: numbers of blocks, heads and MLP neurons that make a model of so many parameters.

Fewer blocks can be wider. Candidates are scored on text after what they would get anyway: units are chosen, blocks are
refitted, and the best of them are trained a little.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from inheritune.arch import (
    block_modules,
    build_skeleton,
    first_units,
    head_groups,
    layer_count,
    parameter_count,
    split_head,
)
from inheritune.data import IGNORED, Examples, Rows
from inheritune.errors import InputError
from inheritune.inheritance.blocks import select_blocks
from inheritune.inheritance.fitting import RIDGE
from inheritune.inheritance.refit_plan import refitted_matrices
from inheritune.inheritance.resolution import size_of
from inheritune.inheritance.target import TargetSpec, draft_target, target_config
from inheritune.inheritance.units.choice import Shape
from inheritune.inheritance.units.narrowing import derive_shape
from inheritune.recipe import Inherit
from inheritune.results import ShapeCandidate, ShapeChoice
from inheritune.runlog import LiveLine, logger

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_DEPTHS = 5  # numbers of blocks that are tried
_NARROWEST = 0.3  # of the MLP: narrower ones are not tried
_FINALISTS = 3  # candidates that are trained a little
_RATE, _STEP = 3e-4, 512  # of the short training: learning rate, tokens of a step
_MULTIPLES = (128, 64, 32, 16, 8, 4, 2, 1)  # of neurons; the first that leaves enough to choose from
_LEAST = 3  # sequences of text
_CHOICES = 12  # multiples in an MLP, at least


@dataclass(frozen=True)
class _Form:
    """Numbers of blocks, heads and neurons (None: all), and the parameters that they make."""

    layers: int
    heads: int | None
    mlp: int | None
    parameters: int


def possible_shapes(
    config: "PretrainedConfig", most: int, blocks_of: Callable[[int], Sequence[int]], trust_remote_code: bool = False
) -> list[ShapeCandidate]:
    """Shapes of at most `most` parameters, each nearly as large as that.

    These are several numbers of blocks with MLPs, or MLPs and heads, as wide as the size allows. `blocks_of` gives the
    blocks for a number of them.

    Raises InputError where not even one block keeps the size.
    """
    total = layer_count(config)

    def size(layers: int, heads: int | None = None, mlp: int | None = None) -> int:
        given = {axis: count for axis, count in (("heads", heads), ("mlp", mlp)) if count is not None}
        spec = TargetSpec(tuple(blocks_of(layers)), width=first_units(config, given))
        return parameter_count(build_skeleton(target_config(config, spec), trust_remote_code))

    deepest = 0
    for layers in range(total, 0, -1):  # downwards, as a measured order ends where the size is kept
        if size(layers) <= most:
            deepest = layers
            break
    if not deepest:
        what = f"{most:,} parameters, and one block with embeddings and head has {size(1):,}"
        raise InputError("inherit.size", what, "allow more")
    found = {_Form(deepest, None, None, size(deepest))}
    width = _neurons(config)
    depths = {round(deepest + (total - deepest) * part / (_DEPTHS - 1)) for part in range(1, _DEPTHS)}
    for layers in sorted(depths - {deepest}) if width else ():
        for fewer in dict.fromkeys([None, *_fewer_heads(config, deepest / layers)]):
            with suppress(InputError):  # heads that the architecture cannot have
                mlp = _widest(partial(size, layers, fewer), width, most)
                if mlp is not None and mlp >= _NARROWEST * width:
                    found.add(_Form(layers, fewer, mlp, size(layers, fewer, mlp)))
    ordered = sorted(found, key=lambda form: (form.layers, form.heads or 0))
    return [
        ShapeCandidate(layers=form.layers, heads=form.heads, mlp=form.mlp, parameters=form.parameters)
        for form in ordered
    ]


def _neurons(config: "PretrainedConfig") -> int:
    """How many neurons each MLP has; 0 where a number of them cannot be chosen."""
    try:
        return len(first_units(config, {"mlp": 1.0}).of_block(0).neurons or ())
    except InputError:
        return 0


def _fewer_heads(config: "PretrainedConfig", share: float) -> list[int]:
    """The number of heads nearest to that share of them which the architecture can have without other channels."""
    legal, heads = [], head_groups(config)[0]
    for count in range(1, heads):
        with suppress(InputError):
            first_units(config, {"heads": count})
            legal.append(count)
    return sorted(legal, key=lambda count: abs(count - share * heads))[:1]


def _widest(size: Callable[[int], int], width: int, most: int) -> int | None:
    """The largest number of neurons that fits, a round one; None where none does."""
    step = next(multiple for multiple in _MULTIPLES if width >= _CHOICES * multiple or multiple == 1)
    low, high = 0, width // step  # low fits, or is none; more than high does not
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle * step) <= most else (low, middle - 1)
    return low * step or None


def _split(rows: Rows) -> tuple[Rows, Rows]:
    """Sequences to choose units and refit blocks on, and every third one to judge shapes on.

    Raises InputError for fewer than three.
    """
    if len(rows) < _LEAST:
        what = f"{len(rows)} sequences of text, and shapes are compared on {_LEAST} or more"
        raise InputError("inherit.size", what, "give more text")
    judged = np.arange(len(rows)) % _LEAST == _LEAST - 1
    return rows.rows(~judged), rows.rows(judged)


def choose_shape(
    model: "PreTrainedModel", rows: Rows, spec: Inherit, dropped: Sequence[int] | None = None, *,
    trust_remote_code: bool = False, micro_batch: int = 8,
) -> ShapeChoice:  # fmt: skip
    """The shape of `spec.size` with the lowest loss, and all that were tried.

    `spec.choose` says which blocks there are, `dropped` is the order of a measured choice. Each candidate (see
    `possible_shapes`) has its units chosen and, where the architecture allows it, its blocks refitted on two thirds of
    `rows`; losses are on the others. The three best are trained on the two thirds once. They are made again for that,
    as three models at once may not fit into the memory. The model, in float32 and evaluation mode, does not change.

    Raises InputError as `possible_shapes` does, and for fewer than three rows.
    """
    most, total = size_of(model.config, spec, trust_remote_code).count, layer_count(model.config)

    def blocks_of(layers: int) -> list[int]:
        return select_blocks(layers, spec.choose, total, dropped=dropped)

    rows, held_out = _split(rows)
    candidates = possible_shapes(model.config, most, blocks_of, trust_remote_code)
    logger.info(f"shape: comparing {len(candidates)} shapes of at most {most:,} parameters")
    scored: list[ShapeCandidate] = []
    with LiveLine("shapes", len(candidates), 0) as line:
        for candidate in candidates:
            loss = _Scored(model, rows, held_out, candidate, blocks_of, micro_batch).loss
            scored.append(candidate.model_copy(update={"loss": loss}))
            line.update(len(scored), f"{candidate.words}: {loss:.3f}")
    best = sorted(range(len(scored)), key=lambda at: scored[at].loss or 0.0)[:_FINALISTS]
    for at in best:
        trained = _Scored(model, rows, held_out, scored[at], blocks_of, micro_batch).trained_loss()
        scored[at] = scored[at].model_copy(update={"recovered": trained})
        logger.info(f"shape: {scored[at].words}: {scored[at].loss:.3f}, {trained:.3f} after a short training")
    chosen = min(best, key=lambda at: scored[at].recovered or 0.0)
    return ShapeChoice(
        most=most,
        candidates=scored,
        chosen=chosen,
        tokens=int(rows.predicted.sum()),
        held_out=int(held_out.predicted.sum()),
    )


class _Scored:
    """A candidate with its weights, and its losses on text that was held out, in nats a token."""

    def __init__(
        self, model: "PreTrainedModel", rows: Rows, held_out: Rows, candidate: ShapeCandidate,
        blocks_of: Callable[[int], Sequence[int]], micro_batch: int,
    ) -> None:  # fmt: skip
        blocks = tuple(blocks_of(candidate.layers))
        try:
            refits = any(refitted_matrices(draft_target(model, TargetSpec(blocks))))
        except InputError:
            refits = False
        shape = Shape(neurons=candidate.mlp, heads=candidate.heads)
        made = derive_shape(model, blocks, shape, rows, ridge=RIDGE if refits else None, micro_batch=micro_batch)
        self._target, self._rows, self._held_out, self._micro_batch = made.target, rows, held_out, micro_batch
        self._head = split_head(made.target)
        self.loss = self._judge()

    def _judge(self) -> float:
        total, counted = 0.0, 0
        with torch.no_grad():
            for _, examples in self._held_out.batches(self._micro_batch):
                total += float(self._losses(examples).double().sum())
                counted += int((examples.targets != IGNORED).sum())
        return total / counted

    def _losses(self, examples: Examples) -> torch.Tensor:
        """The loss of each token (B, T) in nats."""
        head, own = self._head, examples.to(self._target.device)
        losses_BT: torch.Tensor = head.token_losses(head.states(head.outputs(input_ids=own.inputs)), own.targets)
        return losses_BT

    def trained_loss(self) -> float:
        """The loss after the blocks were trained on the text once, in small steps."""
        self._target.requires_grad_(False)
        weights = dict.fromkeys(weight for block in block_modules(self._target) for weight in block.parameters())
        trained = [weight.requires_grad_() for weight in weights]
        optimizer = torch.optim.AdamW(trained, lr=_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        for _, examples in self._rows.batches(max(1, _STEP // self._rows.sequence_length)):
            loss = self._losses(examples).sum() / max(1, examples.counted)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return self._judge()
