"""A measured choice of blocks, made once and kept in a file."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.analysis import choose_blocks, sequences_wanted
from inheritune.arch import in_dtype, layer_count, load_config, load_model
from inheritune.data import Sequences, sample
from inheritune.experiment.context import RunContext
from inheritune.experiment.rounds import is_measured
from inheritune.experiment.store import once
from inheritune.inheritance import replace_budget
from inheritune.recipe import Inherit, Reference
from inheritune.report import spans
from inheritune.results import BlockChoice
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CALIBRATION_LENGTH = 256  # tokens a sequence: enough for attention to work as usual, and short enough for many


def decide(
    source: "Reference | PreTrainedModel", inherit: Inherit, context: RunContext, file: Path
) -> tuple[Inherit, list[int] | None]:
    """`inherit` with a number of blocks in place of a budget, and the order of a measured choice (None: not one).

    A measured choice (see `analysis.choose_blocks`) is made by rank 0 and kept in `file`. It sees `inherit.calibration`
    of the training tokens, spread evenly over them, and no validation document. Each drop is saved beside `file` until
    the choice is made, so that an interrupted choice resumes.
    """
    if not is_measured(inherit):
        config = load_config(source) if isinstance(source, Reference) else source.config
        return replace_budget(config, inherit, context.trust_remote_code), None
    runtime, drops = context.runtime, file.with_name(f"{file.stem}-drops.json")
    selection = once(
        runtime, file, BlockChoice, lambda: runtime.on_rank0(lambda: _choose(source, inherit, context, drops))
    )
    runtime.on_rank0(lambda: drops.unlink(missing_ok=True))
    logger.info(f"chose blocks {spans(selection.blocks)}: {selection.reason}")
    dropped = [one.block for one in selection.dropped]
    return inherit.model_copy(update={"layers": len(selection.blocks)}), dropped


def _choose(source: "Reference | PreTrainedModel", inherit: Inherit, context: RunContext, drops: Path) -> BlockChoice:
    runtime, text = context.runtime, context.train_sequences
    model = load_model(source) if isinstance(source, Reference) else copy.deepcopy(source)
    model = in_dtype(model, "float32").eval().to(runtime.device)
    length = min(_CALIBRATION_LENGTH, text.sequence_length)
    packing = replace(text.packing, documents=False)
    pieces = Sequences(text.tokens, length, "inherit.calibration", packing=packing)
    count = sequences_wanted(inherit, length, layer_count(model.config))
    rows = sample(pieces, count, "inherit.calibration", or_fewer=True)
    return choose_blocks(
        model, rows, inherit, precision=runtime.quick_precision(),
        trust_remote_code=context.trust_remote_code, progress=drops,
    )  # fmt: skip
