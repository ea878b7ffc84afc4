"""The best shape of a size or a speed: shapes that keep it, compared on text after what they would get anyway.

Fewer blocks can be wider. Units are chosen, blocks are refitted, and the best shapes are trained a little.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inheritune.arch import Head, block_modules, build_skeleton, layer_count, parameter_count, split_head
from inheritune.data import IGNORED, Examples, Rows
from inheritune.errors import InputError
from inheritune.inheritance.blocks import select_blocks
from inheritune.inheritance.refit_plan import refitted_matrices
from inheritune.inheritance.resolution import resolve, size_of
from inheritune.inheritance.target import TargetSpec, draft_target
from inheritune.inheritance.units.forms import Form, ShapeSearch, unit_count
from inheritune.inheritance.units.narrowing import derive_chosen, rotate_to_components
from inheritune.inheritance.units.speed import Pace
from inheritune.recipe import MEASURED, Inherit, Work
from inheritune.results import ShapeCandidate, ShapeChoice
from inheritune.runlog import LiveLine, logger

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_FINALISTS = 3  # candidates that are trained a little
_RATE, _STEP = 3e-4, 512  # of the short training: learning rate, tokens of a step
_LEAST = 3  # sequences of text
_WORK: tuple[Work, ...] = ("generation", "training")


def _split(rows: Rows) -> tuple[Rows, Rows]:
    """Sequences to choose units and refit blocks on, and every third one to judge shapes on.

    Raises InputError for fewer than three.
    """
    if len(rows) < _LEAST:
        what = f"{len(rows)} sequences of text, and shapes are compared on {_LEAST} or more"
        raise InputError("inherit.shape", what, "give more text")
    judged = np.arange(len(rows)) % _LEAST == _LEAST - 1
    return rows.rows(~judged), rows.rows(judged)


def choose_depth(
    config: "PretrainedConfig", spec: Inherit, reference: "PretrainedConfig | None" = None, *,
    layers: int | None = None, device: str | None = None, trust_remote_code: bool = False,
) -> ShapeChoice:  # fmt: skip
    """The most whole blocks of a model of `config` that keep the size and speed of `spec`, with their speeds.

    Nothing is compared, and no weights are needed. `layers` is given where the number is known. See `choose_shape`.
    """
    if spec.choose in MEASURED:  # before the choice is made, the first blocks stand in for it
        spec = spec.model_copy(update={"choose": "first"})
    search = _search(config, reference, spec, None, None, device, trust_remote_code)
    form = search.deepest() if layers is None else Form(layers)
    return _choice(search, [_with_speeds(search, form)])


def choose_shape(
    model: "PreTrainedModel", rows: Rows, spec: Inherit, dropped: Sequence[int] | None = None,
    reference: "PretrainedConfig | None" = None, *, keeps_hidden: bool = False, device: str | None = None,
    trust_remote_code: bool = False, micro_batch: int = 8,
) -> ShapeChoice:  # fmt: skip
    """The shape that keeps `spec.size` and `spec.speed` with the lowest loss, and all that were tried.

    `spec.choose` says which blocks there are, `dropped` is the order of a measured choice that ends where the budget is
    kept. `reference` is the config that fractions and speeds are relative to, where it is not the model's. With
    `keeps_hidden` no hidden channels are given up. Speeds are measured on `device` (see `Pace`). Each candidate (see
    `ShapeSearch.every`) has its units chosen and, where the architecture allows it, its blocks refitted on two thirds
    of `rows`; losses are on the others. The three best are trained on the two thirds once. They are made again for
    that, as three models at once may not fit into the memory. The model, in float32 and evaluation mode, does not
    change.

    Raises InputError where not even one block keeps the budget, for a speed that cannot be measured, and for fewer than
    three rows.
    """
    rows, held_out = _split(rows)
    rotated = None
    if spec.hidden is not None or not (keeps_hidden or unit_count(model.config, "hidden") == 0):
        turned, is_rotated = rotate_to_components(model, rows, micro_batch=micro_batch)
        rotated = turned if is_rotated else None
    search = _search(model.config, reference, spec, rotated, dropped, device, trust_remote_code)
    depth = search.deepest() if dropped is None else Form(layer_count(model.config) - len(dropped))
    forms = search.every(depth, keeps_hidden)
    logger.info(f"shape: comparing {len(forms)} shapes ({_choice(search, []).goal})")
    refits = _can_be_refitted(model, search.blocks_of(depth.layers))
    scoring = _Scoring(model, rotated, rows, held_out, spec, search.blocks_of, refits, micro_batch)
    scored = [_with_speeds(search, form) for form in forms]
    search.pace.release()
    with LiveLine("shapes", len(forms), 0) as line:
        for at, form in enumerate(forms):
            scored[at] = scored[at].model_copy(update={"loss": scoring.loss(scoring.make(form))})
            line.update(at + 1, f"{scored[at].words}: {scored[at].loss:.3f}")
    best = sorted(range(len(scored)), key=lambda at: scored[at].loss or 0.0)[:_FINALISTS]
    for at in best:
        trained = scoring.trained_loss(scoring.make(forms[at]))
        scored[at] = scored[at].model_copy(update={"recovered": trained})
        logger.info(f"shape: {scored[at].words}: {scored[at].loss:.3f}, {trained:.3f} after a short training")
    chosen = min(best, key=lambda at: scored[at].recovered or 0.0)
    tokens, others = (int((part.predicted >= 0).sum()) for part in (rows, held_out))
    compared = {"chosen": chosen, "tokens": tokens, "held_out": others}
    found = _choice(search, scored).model_copy(update=compared)
    assert found.reference is not None
    own = found.reference.model_copy(update={"loss": scoring.loss(model)})
    return found.model_copy(update={"reference": own})


def _search(
    config: "PretrainedConfig", reference: "PretrainedConfig | None", spec: Inherit,
    rotated: "PreTrainedModel | None", dropped: Sequence[int] | None, device: str | None, trust: bool,
) -> ShapeSearch:  # fmt: skip
    total, reference = layer_count(config), reference or config

    def blocks_of(layers: int) -> list[int]:
        return select_blocks(layers, spec.choose, total, dropped=dropped)

    pace = Pace(reference, device, trust)
    return ShapeSearch(spec, config, reference, pace, blocks_of, None if rotated is None else rotated.config, trust)


def _can_be_refitted(model: "PreTrainedModel", blocks: Sequence[int]) -> bool:
    try:
        return any(refitted_matrices(draft_target(model, TargetSpec(tuple(blocks)))))
    except InputError:
        return False


def _with_speeds(search: ShapeSearch, form: Form) -> ShapeCandidate:
    """A candidate with its speeds; without one that cannot be measured."""
    speeds: dict[str, Any] = {work: search.pace.find(search.target(form), work) for work in _WORK}
    return search.candidate(form).model_copy(update=speeds)


def _choice(search: ShapeSearch, candidates: list[ShapeCandidate]) -> ShapeChoice:
    """What was tried, before anything is compared."""
    spec, config, trust = search.spec, search.reference, search.trust_remote_code
    return ShapeChoice(
        most=None if spec.size is None else size_of(config, spec, trust).count,
        speed=None if spec.speed is None else str(spec.speed),
        reference=ShapeCandidate(
            layers=layer_count(config), heads=None, mlp=None, parameters=parameter_count(build_skeleton(config, trust)),
            **{work: search.pace.own(work) for work in _WORK},
        ),
        measured_on=search.pace.place,
        candidates=candidates,
        chosen=0,
        tokens=0,
        held_out=0,
    )  # fmt: skip


@dataclass(frozen=True)
class _Scoring:
    """Makes shapes, and gives their losses on text that was held out, in nats a token."""

    model: "PreTrainedModel"
    rotated: "PreTrainedModel | None"
    rows: Rows
    held_out: Rows
    spec: Inherit
    blocks_of: Callable[[int], Sequence[int]]
    refits: bool
    micro_batch: int

    def make(self, form: Form) -> "PreTrainedModel":
        """A shape with its weights."""
        blocks = tuple(self.blocks_of(form.layers))
        spec = resolve(self.spec.model_copy(update=form.numbers), self.model.config, blocks)
        return derive_chosen(
            self.model, spec, self.spec.importance, self.rows, refits=self.refits, rotated=self.rotated or False,
            micro_batch=self.micro_batch,
        ).target  # fmt: skip

    def loss(self, model: "PreTrainedModel") -> float:
        """The loss as it is."""
        head, total, counted = split_head(model), 0.0, 0
        with torch.no_grad():
            for _, examples in self.held_out.batches(self.micro_batch):
                total += float(_losses(head, examples.to(model.device)).double().sum())
                counted += int((examples.targets != IGNORED).sum())
        return total / counted

    def trained_loss(self, model: "PreTrainedModel") -> float:
        """The loss after the blocks were trained on the text once, in small steps."""
        head = split_head(model)
        model.requires_grad_(False)
        weights = dict.fromkeys(weight for block in block_modules(model) for weight in block.parameters())
        trained = [weight.requires_grad_() for weight in weights]
        optimizer = torch.optim.AdamW(trained, lr=_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        for _, examples in self.rows.batches(max(1, _STEP // self.rows.sequence_length)):
            loss = _losses(head, examples.to(model.device)).sum() / max(1, examples.counted)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return self.loss(model)


def _losses(head: Head, examples: Examples) -> torch.Tensor:
    """The loss of each token (B, T) in nats."""
    losses_BT: torch.Tensor = head.token_losses(head.states(head.outputs(input_ids=examples.inputs)), examples.targets)
    return losses_BT
