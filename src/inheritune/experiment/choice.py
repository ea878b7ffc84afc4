"""A measured choice of blocks, made once and kept in a file."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.analysis import choose_blocks, sequences_wanted
from inheritune.arch import in_dtype, layer_count, load_config, load_model, ready
from inheritune.data import Rows, Sequences, sample
from inheritune.experiment.context import RunContext
from inheritune.experiment.rounds import is_measured
from inheritune.experiment.store import once
from inheritune.inheritance import REFIT_TOKENS, replace_budget, size_of
from inheritune.recipe import Inherit, Reference
from inheritune.report import spans
from inheritune.results import BlockChoice, ShapeChoice
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
    if inherit.size is not None and inherit.shape == "auto":
        return _shaped(source, inherit, context, file)
    config = load_config(source) if isinstance(source, Reference) else source.config
    if not is_measured(inherit):
        return replace_budget(config, inherit, context.trust_remote_code), None
    if inherit.size is not None:
        size = size_of(config, inherit, context.trust_remote_code)
        inherit = inherit.model_copy(update={"layers": size, "size": None})
    runtime, drops = context.runtime, file.with_name(f"{file.stem}-drops.json")
    selection = once(
        runtime, file, BlockChoice, lambda: runtime.on_rank0(lambda: _choose(source, inherit, context, drops))
    )
    runtime.on_rank0(lambda: drops.unlink(missing_ok=True))
    logger.info(f"chose blocks {spans(selection.blocks)}: {selection.reason}")
    dropped = [one.block for one in selection.dropped]
    return inherit.model_copy(update={"layers": len(selection.blocks)}), dropped


def _shaped(
    source: "Reference | PreTrainedModel", inherit: Inherit, context: RunContext, file: Path
) -> tuple[Inherit, list[int] | None]:
    """`inherit` with the best shape of its size, which is kept in shape.json beside `file`."""
    from inheritune.inheritance.units.shapes import choose_shape

    runtime, trust = context.runtime, context.trust_remote_code
    spec, dropped = decide(source, inherit.model_copy(update={"shape": "depth"}), context, file)

    def search() -> ShapeChoice:
        with ready(source, context.tokenizer, runtime.device, "float32") as (model, _):
            rows = _pieces(context, max(1, REFIT_TOKENS.count // _CALIBRATION_LENGTH))
            return choose_shape(model, rows, inherit, dropped, trust_remote_code=trust)

    choice = once(runtime, file.with_name("shape.json"), ShapeChoice, lambda: runtime.on_rank0(search))
    best = choice.best
    logger.info(f"shape: {best.words}, {best.parameters:,} parameters")
    return spec.model_copy(update={"layers": best.layers, "heads": best.heads, "mlp": best.mlp}), dropped


def _pieces(context: RunContext, count: int) -> Rows:
    """Sequences of training text, spread evenly."""
    text = context.train_sequences
    length = min(_CALIBRATION_LENGTH, text.sequence_length)
    packing = replace(text.packing, documents=False, long_conversations="truncate")
    pieces = Sequences(text.tokens, length, "inherit.calibration", packing=packing)
    return sample(pieces, count, "inherit.calibration", or_fewer=True)


def _choose(source: "Reference | PreTrainedModel", inherit: Inherit, context: RunContext, drops: Path) -> BlockChoice:
    runtime, text = context.runtime, context.train_sequences
    model = load_model(source) if isinstance(source, Reference) else copy.deepcopy(source)
    model = in_dtype(model, "float32").eval().to(runtime.device)
    length = min(_CALIBRATION_LENGTH, text.sequence_length)
    rows = _pieces(context, sequences_wanted(inherit, length, layer_count(model.config)))
    return choose_blocks(
        model, rows, inherit, precision=runtime.quick_precision(),
        trust_remote_code=context.trust_remote_code, progress=drops,
    )  # fmt: skip
