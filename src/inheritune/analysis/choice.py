"""Measured choices: from a model and calibration text to an order of its blocks, with the reason in words."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inheritune import results
from inheritune.analysis.ablation import Trials, products_in, skip_increases
from inheritune.analysis.figures import mean
from inheritune.analysis.forward_statistics import Passed, pass_through
from inheritune.analysis.measures import is_lazy
from inheritune.analysis.order import order_by, search
from inheritune.analysis.progress import Dropped, Progress, fingerprint_of, open_progress
from inheritune.analysis.recovery import Recovery
from inheritune.arch import layer_count
from inheritune.data import Rows
from inheritune.errors import InputError
from inheritune.inheritance import count_layers, draft_target, keeps_budget, replace_budget, resolve, select_blocks
from inheritune.recipe import Inherit, Size
from inheritune.results import Calibration, Selection

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TAU = 0.9
_RANK_LENGTH, _RANK_SEQUENCES = 100, 20  # ranks grow with the length: the paper's, and enough of them to tell 1 from 2


def choose_blocks(
    model: "PreTrainedModel", rows: Rows, spec: Inherit, *, micro_batch: int = 8,
    precision: str = "float32", trust_remote_code: bool = False, say: Callable[[str], None] = lambda _: None,
    progress: Path | None = None,
) -> Selection:  # fmt: skip
    """The blocks that a measured choice keeps, and the order in which it drops the others.

    `rows` are calibration sequences, which must not be validation text. auto drops one block after the
    other, each time the one without which the loss rises least (see `search`), until `spec.layers` is kept; rank,
    influence and loss drop those with the lowest MaxRank, block influence, or increase of the loss when skipped alone.
    Products for losses are in `precision` (float32 or bfloat16). The model, in evaluation mode and on its device, is
    left as it was.

    With auto, each drop is saved in the file `progress`. A later call with the same model, rows and settings resumes
    from it and gives the same blocks as an uninterrupted one. The caller removes the file.

    Raises Interrupted on Ctrl-C or SIGTERM, and says what is kept; InputError for more blocks than there are or a
    budget below one, where no block can be dropped, or when rank is asked of blocks that show no attention weights;
    RunError for a damaged `progress`.
    """
    total = layer_count(model.config)
    # What cannot be is found before anything is measured.
    if isinstance(spec.layers, Size):
        replace_budget(model.config, spec, trust_remote_code)
    else:
        count_layers(spec.layers, total)
    fingerprint = ""
    if progress is not None:
        fingerprint = fingerprint_of(model, rows, spec, micro_batch=micro_batch, precision=precision)
    saved = open_progress(progress, fingerprint)
    with saved.told():
        return _chosen(model, rows, spec, micro_batch, precision, trust_remote_code, say, saved)


def _chosen(
    model: "PreTrainedModel", rows: Rows, spec: Inherit, micro_batch: int, precision: str, trust_remote_code: bool,
    say: Callable[[str], None], progress: Progress,
) -> Selection:  # fmt: skip
    total = layer_count(model.config)
    seen, spare = divide(rows, spec)
    pieces = seen.cut(min(_RANK_LENGTH, rows.sequence_length))
    pieces = pieces.rows(range(len(pieces))[:_RANK_SEQUENCES])
    ranks = _ranks(pass_through(model, pieces, (_TAU,), micro_batch))
    trials, start = None, None
    tried, recovery = model, None
    if spec.choose == "auto" and spec.recovery is not None and len(spare):
        tried = copy.deepcopy(model)
        sequences = max(1, spec.recovery.count // rows.sequence_length)
        recovery = Recovery(tried, spare, sequences, micro_batch)
    with products_in(precision if spec.choose in ("auto", "loss") else "float32", model):
        if spec.choose == "auto":
            trials = Trials(tried, seen, micro_batch, recovery)
            start = float(trials.losses.mean())
            say(f"choosing blocks: loss {start:.3f} with all {total}")
            if not trials.resumes:
                say("choosing blocks: blocks see more than the one before hands on, so every trial takes a whole pass")
            if progress.drops:
                say(f"choosing blocks: resuming from {progress.file}, drops so far: {len(progress.drops)}")
            enough = partial(_is_enough, model, spec, trust_remote_code)
            order = search(trials, enough, partial(_is_model, model, spec), say, progress)
        else:
            order = order_by(_values(model, seen, spec.choose, ranks, micro_batch))
    dropped = [one.block for one in order]
    kept = _kept(model, spec, dropped, trust_remote_code)
    lazy = [block for block, rank in enumerate(ranks) if rank is not None and is_lazy(rank)]
    gone = order[: total - len(kept)]
    return Selection(
        choose=spec.choose,
        blocks=kept,
        dropped=[results.Dropped(block=one.block, loss=one.loss, increase=one.increase) for one in gone],
        lazy_layers=lazy,
        reason=reason(gone, lazy, spec.choose),
        precision=precision,
        calibration=Calibration(sequences=len(seen), sequence_length=rows.sequence_length),
        recovery_steps=0 if recovery is None else recovery.steps,
        loss=start,
        trials=trials.runs if trials is not None else 0,
        seconds=round(progress.seconds, 1),
    )


def sequences_wanted(spec: Inherit, length: int, blocks: int) -> int:
    """How many sequences a measured choice among so many blocks has use for: to see, and to recover on."""
    seen = max(1, spec.calibration.count // length)
    if spec.choose != "auto" or spec.recovery is None:
        return seen
    return seen + max(1, spec.recovery.count // length) * (blocks - 1)


def divide(rows: Rows, spec: Inherit) -> tuple[Rows, Rows]:
    """The sequences that losses are taken on, spread evenly over all, and the others, of which there may be none."""
    count = min(len(rows), max(1, spec.calibration.count // rows.sequence_length))
    seen = np.zeros(len(rows), bool)
    seen[np.arange(count) * len(rows) // count] = True
    return rows.rows(seen), rows.rows(~seen)


def reason(dropped: Sequence[Dropped], lazy: Sequence[int], choose: str) -> str:
    """Why these blocks were dropped, in a line: what each added to the loss, and which are lazy."""
    by = {"rank": "lowest rank", "influence": "lowest influence", "loss": "lowest loss when skipped"}
    listed = "; ".join(
        f"{one.block}" + ("" if one.increase is None else f": {one.increase:+.2f}") for one in dropped
    )  # fmt: skip
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


def _ranks(passed: Passed) -> list[float | None]:
    """MaxRank by block; None where no attention is seen."""
    return [None if heads is None else float(heads[..., 0].mean(0).max()) for heads in passed.heads]


def _values(
    model: "PreTrainedModel", rows: Rows, choose: str, ranks: Sequence[float | None], micro_batch: int
) -> list[float]:
    """By block the figure that the choice goes by."""
    if choose == "loss":
        trials = Trials(model, rows, micro_batch)
        return [mean(row).mean for row in skip_increases(trials, trials.kept)]
    if choose == "influence":
        passed = pass_through(model, rows, (_TAU,), micro_batch)
        return [float(value) for value in passed.influence.mean(0)]
    missing = [block for block, rank in enumerate(ranks) if rank is None]
    if missing:
        what = f"block {missing[0]} shows no attention weights, so it has no rank"
        raise InputError("choose: rank", what, "take auto, influence or loss")
    return [rank for rank in ranks if rank is not None]


def _is_enough(model: "PreTrainedModel", spec: Inherit, trust: bool, kept: list[int]) -> bool:
    if isinstance(spec.layers, Size):
        return keeps_budget(model.config, spec, kept, trust)
    return len(kept) <= count_layers(spec.layers, layer_count(model.config))


def _kept(model: "PreTrainedModel", spec: Inherit, dropped: Sequence[int], trust: bool) -> list[int]:
    total = layer_count(model.config)
    if not isinstance(spec.layers, Size):
        return select_blocks(spec.layers, spec.choose, total, dropped=dropped)
    for count in range(total, total - len(dropped) - 1, -1):
        kept = select_blocks(count, spec.choose, total, dropped=dropped) if count else []
        if kept and keeps_budget(model.config, spec, kept, trust):
            return kept
    raise InputError(
        "inherit.layers", f"{spec.layers}, and one block with embeddings and head comes to more", "allow more"
    )


def _is_model(model: "PreTrainedModel", spec: Inherit, kept: list[int]) -> bool:
    """Whether a target can be made of these blocks in which each computes what it did."""
    if not kept:
        return False
    try:
        draft_target(model, resolve(spec, model.config, kept))
    except InputError:
        return False
    return True
