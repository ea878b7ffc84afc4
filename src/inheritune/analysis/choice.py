"""Measured choices: from a model and calibration text to an order of its blocks, with the reason in words."""

import copy
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inheritune.analysis.ablation import Trials
from inheritune.analysis.figures import mean
from inheritune.analysis.forward_statistics import pass_through
from inheritune.analysis.measures import is_lazy
from inheritune.analysis.order import order_by, search
from inheritune.analysis.progress import Progress, open_progress
from inheritune.analysis.race import TOKENS
from inheritune.analysis.recovery import Recovery
from inheritune.arch import layer_count
from inheritune.data import Rows
from inheritune.errors import InputError, Interrupted
from inheritune.inheritance import (
    above_budget,
    count_layers,
    draft_target,
    keeps_budget,
    replace_budget,
    resolve,
    select_blocks,
    size_of,
)
from inheritune.recipe import Inherit
from inheritune.results import BlockChoice, Calibration, Dropped
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TAU = 0.9
_RANK_LENGTH, _RANK_SEQUENCES = 100, 20  # ranks grow with the length: the paper's, and enough of them to tell 1 from 2


def choose_blocks(
    model: "PreTrainedModel", rows: Rows, spec: Inherit, *, micro_batch: int = 8, precision: str = "float32",
    trust_remote_code: bool = False, progress: Path | None = None,
) -> BlockChoice:  # fmt: skip
    """The blocks that a measured choice keeps, and the order in which it drops the others.

    `rows` are calibration sequences, which must not be validation text. auto drops one block after the other, each time
    the one without which the loss rises least (see `search`), until `spec.layers` or `spec.size` is kept; rank,
    influence and loss drop those with the lowest MaxRank, block influence, or increase of the loss when skipped alone.
    Products for losses are in `precision` (float32 or bfloat16). The model, in evaluation mode and on its device, does
    not change.

    With auto, each drop is saved in the file `progress`. A later call with the same model, rows and settings resumes
    from it and gives the same blocks as an uninterrupted one. The caller removes the file.

    Raises Interrupted, which tells what is saved, on Ctrl-C or SIGTERM; InputError for more blocks than there are or a
    budget below one, where no block can be dropped, or for rank with blocks that show no attention weights;
    DamagedFile for a damaged `progress`.
    """
    if spec.speed is not None:
        raise InputError("inherit.speed", "blocks are chosen for a number or a size", "give layers or size")
    if spec.size is not None:  # raise InputError before anything is measured
        replace_budget(model.config, spec, trust_remote_code)
        size = size_of(model.config, spec, trust_remote_code)
        spec = spec.model_copy(update={"size": size})
    else:
        count_layers(spec.layers, layer_count(model.config))
    fingerprint = ""
    if progress is not None:
        fingerprint = _fingerprint(model, rows, spec, micro_batch=micro_batch, precision=precision)
    saved = open_progress(progress, fingerprint)
    try:
        return _chosen(model, rows, spec, micro_batch, precision, trust_remote_code, saved)
    except KeyboardInterrupt:
        raise Interrupted(f"choosing blocks: interrupted; {saved.describe()}") from None


def _chosen(
    model: "PreTrainedModel", rows: Rows, spec: Inherit, micro_batch: int, precision: str, trust: bool,
    progress: Progress,
) -> BlockChoice:  # fmt: skip
    total = layer_count(model.config)
    seen, spare = divide(rows, spec)
    pieces = seen.cut(min(_RANK_LENGTH, rows.sequence_length))
    pieces = pieces.rows(range(len(pieces))[:_RANK_SEQUENCES])
    heads_by_block = pass_through(model, pieces, (_TAU,), micro_batch).heads
    max_ranks = [None if heads is None else float(heads[..., 0].mean(0).max()) for heads in heads_by_block]
    tried, recovery, start = model, None, None
    if spec.choose == "auto" and spec.recovery is not None and len(spare):
        tried = copy.deepcopy(model)
        sequences = max(1, spec.recovery.count // rows.sequence_length)
        recovery = Recovery(tried, spare, sequences, micro_batch)
    half = precision != "float32" and spec.choose in ("auto", "loss")
    # around all trials, so that autocast rounds the weights once
    with torch.autocast(model.device.type, torch.bfloat16, enabled=half):
        if spec.choose == "auto":
            trials = Trials(tried, _shuffled(seen), min(micro_batch, max(1, TOKENS // rows.sequence_length)), recovery)
            start = trials.whole_loss
            logger.info(f"choosing blocks: loss {start:.3f} with all {total}")
            if not trials.resumes:
                what = "blocks take more than the output of the one before: each trial is a whole pass"
                logger.info(f"choosing blocks: {what}")
            if progress.drops:
                logger.info(f"choosing blocks: resuming from {progress.file}, drops so far: {len(progress.drops)}")
            enough = partial(_is_enough, model, spec, trust)
            order = search(trials, enough, partial(_is_model, model, spec), progress)
        else:
            order = order_by(_values(model, seen, spec.choose, max_ranks, micro_batch))
    kept = _kept(model, spec, [one.block for one in order], trust)
    lazy = [block for block, rank in enumerate(max_ranks) if rank is not None and is_lazy(rank)]
    gone = order[: total - len(kept)]
    return BlockChoice(
        choose=spec.choose,
        blocks=kept,
        dropped=gone,
        lazy_layers=lazy,
        reason=reason(gone, lazy, spec.choose),
        precision=precision,
        calibration=Calibration(sequences=len(seen), sequence_length=rows.sequence_length),
        recovery_steps=0 if recovery is None else recovery.steps,
        loss=start,
        trials=progress.trials,
        seconds=round(progress.seconds, 1),
    )


def _fingerprint(model: "PreTrainedModel", rows: Rows, spec: Inherit, **settings: Any) -> str:
    """A hash of all that a choice depends on: config and weights of the model, calibration text, settings."""
    digest = hashlib.sha256(model.config.to_json_string(use_diff=False).encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    digest.update(np.ascontiguousarray(rows.windows).tobytes())
    digest.update(repr((rows.packing, spec.model_dump(mode="json"), sorted(settings.items()))).encode())
    return digest.hexdigest()


def sequences_wanted(spec: Inherit, length: int, blocks: int) -> int:
    """How many sequences a measured choice among so many blocks needs, for its losses and for recovery."""
    seen = max(1, spec.calibration.count // length)
    if spec.choose != "auto" or spec.recovery is None:
        return seen
    return seen + max(1, spec.recovery.count // length) * (blocks - 1)


def divide(rows: Rows, spec: Inherit) -> tuple[Rows, Rows]:
    """The sequences that losses are taken on, spread evenly over all, and the rest, which may be empty."""
    count = min(len(rows), max(1, spec.calibration.count // rows.sequence_length))
    seen = np.zeros(len(rows), bool)
    seen[np.arange(count) * len(rows) // count] = True
    return rows.rows(seen), rows.rows(~seen)


def _shuffled(rows: Rows) -> Rows:
    """In an order in which the first sequences are from all over the text."""
    return rows.rows(np.random.default_rng(0).permutation(len(rows)))


def reason(dropped: Sequence[Dropped], lazy: Sequence[int], choose: str) -> str:
    """Why these blocks were dropped, in a line: what each drop added to the loss, and which blocks are lazy."""
    by = {"rank": "lowest rank", "influence": "lowest influence", "loss": "lowest loss when skipped"}
    listed = "; ".join(f"{one.block}" + ("" if one.increase is None else f": {one.increase:+.2f}") for one in dropped)
    text = f"dropped {listed or 'none'}" + (f" ({by[choose]} first)" if choose in by else "")
    gone = [one.block for one in dropped]
    here, left = [block for block in lazy if block in gone], [block for block in lazy if block not in gone]
    if here:
        text += f"; {_and(here)} lazy"
    if left:
        text += f"; kept though lazy: {_and(left)}"
    return text


def _and(blocks: Sequence[int]) -> str:
    return " and ".join(filter(None, [", ".join(map(str, blocks[:-1])), str(blocks[-1])]))


def _values(
    model: "PreTrainedModel", rows: Rows, choose: str, ranks: Sequence[float | None], micro_batch: int
) -> list[float]:
    """For each block the figure that `choose` orders by."""
    if choose == "loss":
        return [mean(row).mean for row in Trials(model, rows, micro_batch).skip_increases()]
    if choose == "influence":
        passed = pass_through(model, rows, (_TAU,), micro_batch)
        return [float(value) for value in passed.influence.mean(0)]
    missing = [block for block, rank in enumerate(ranks) if rank is None]
    if missing:
        what = f"block {missing[0]} shows no attention weights, so it has no rank"
        raise InputError("choose: rank", what, "give auto, influence or loss")
    return [rank for rank in ranks if rank is not None]


def _is_enough(model: "PreTrainedModel", spec: Inherit, trust: bool, kept: list[int]) -> bool:
    if spec.size is not None:
        return keeps_budget(model.config, spec, kept, trust)
    return len(kept) <= count_layers(spec.layers, layer_count(model.config))


def _kept(model: "PreTrainedModel", spec: Inherit, dropped: Sequence[int], trust: bool) -> list[int]:
    total = layer_count(model.config)
    if spec.size is None:
        return select_blocks(spec.layers, spec.choose, total, dropped=dropped)
    for count in range(total, total - len(dropped) - 1, -1):
        kept = select_blocks(count, spec.choose, total, dropped=dropped) if count else []
        if kept and keeps_budget(model.config, spec, kept, trust):
            return kept
    raise above_budget(spec)


def _is_model(model: "PreTrainedModel", spec: Inherit, kept: list[int]) -> bool:
    """Whether a target can be made of these blocks in which each computes what it did."""
    if not kept:
        return False
    try:
        draft_target(model, resolve(spec, model.config, kept))
    except InputError:
        return False
    return True
