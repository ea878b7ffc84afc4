"""Measured choices of blocks and shapes, made once and kept in files."""

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
from inheritune.inheritance import REFIT_TOKENS, replace_budget, shaped, size_of, without_budget
from inheritune.inheritance.units.shapes import choose_depth, choose_shape
from inheritune.recipe import Inherit, Reference
from inheritune.report import shape_lines, spans
from inheritune.results import BlockChoice, ShapeChoice
from inheritune.runlog import logger

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_CALIBRATION_LENGTH = 256  # tokens a sequence: enough for attention to work as usual, and short enough for many


def decide(
    source: "Reference | PreTrainedModel", inherit: Inherit, context: RunContext, file: Path,
    reference: "PretrainedConfig | None" = None,
) -> tuple[Inherit, list[int] | None]:  # fmt: skip
    """`inherit` with numbers in place of size and speed, and the order of a measured choice (None: not one).

    A measured choice (see `analysis.choose_blocks`) is made by rank 0 and kept in `file`. It sees `inherit.calibration`
    of the training tokens, spread evenly over them, and no validation document. Each drop is saved beside `file` until
    the choice is made, so that an interrupted choice resumes. What is compared or measured for a size or a speed is
    kept in shape.json beside `file`. Speeds are relative to `reference`; default: to the source.
    """
    runtime, trust = context.runtime, context.trust_remote_code
    config = load_config(source) if isinstance(source, Reference) else source.config
    dropped, drops = None, file.with_name(f"{file.stem}-drops.json")

    def depth(layers: int | None = None) -> ShapeChoice:
        return choose_depth(config, inherit, reference, layers=layers, device=runtime.device, trust_remote_code=trust)

    def choose() -> BlockChoice:
        asked = inherit
        if inherit.speed is not None:
            asked = without_budget(inherit, depth().best.layers)
        elif inherit.size is not None:
            asked = inherit.model_copy(update={"size": size_of(reference or config, inherit, trust)})
        return _choose(source, asked, context, drops)

    if is_measured(inherit):
        selection = once(runtime, file, BlockChoice, lambda: runtime.on_rank0(choose))
        runtime.on_rank0(lambda: drops.unlink(missing_ok=True))
        logger.info(f"chose blocks {spans(selection.blocks)}: {selection.reason}")
        dropped = [one.block for one in selection.dropped]
        if not inherit.has_budget:
            return inherit.model_copy(update={"layers": len(selection.blocks)}), dropped
    if inherit.speed is None and not inherit.compares_shapes:
        own = replace_budget(config, inherit, trust, reference)
        return (own if dropped is None else without_budget(inherit, len(selection.blocks))), dropped

    taught = context.training.distillation
    keeps_hidden = taught is not None and taught.hidden_states is not None  # which are compared with the teacher's

    def search() -> ShapeChoice:
        if not inherit.compares_shapes:
            return depth(None if dropped is None else len(selection.blocks))
        with ready(source, context.tokenizer, runtime.device, "float32") as (model, _):
            rows = _pieces(context, max(1, REFIT_TOKENS.count // _CALIBRATION_LENGTH))
            return choose_shape(
                model, rows, inherit, dropped, reference, keeps_hidden=keeps_hidden, device=runtime.device,
                trust_remote_code=trust,
            )  # fmt: skip

    choice = once(runtime, file.with_name("shape.json"), ShapeChoice, lambda: runtime.on_rank0(search))
    for line in shape_lines(choice):
        logger.info(f"shape: {line}")
    return shaped(inherit, choice), dropped


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
