"""From a reference and settings to a small model: blocks and units chosen, copied, refitted, and written."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    Indices,
    Selection,
    check_stored_numbers,
    find_tokenizer,
    in_dtype,
    layer_count,
    load_config,
    parameter_count,
    readers_of,
    ready,
    save_model,
    save_stored,
    trim_tokenizer,
    with_vocabulary,
)
from inheritune.card import inherited_files, without_stopping
from inheritune.corpus import documents
from inheritune.errors import InputError
from inheritune.inheritance.blocks import select_blocks
from inheritune.inheritance.derivation import (
    as_dtype,
    check_loaded,
    derive,
    derive_refitted,
    free_output,
    inherit_settings,
    open_source,
    plan_for,
)
from inheritune.inheritance.plan import Plan, describe_plan
from inheritune.inheritance.refit_plan import CalibrationText, refitted_matrices
from inheritune.inheritance.resolution import replace_budget, resolve, without_budget
from inheritune.inheritance.target import TargetSpec
from inheritune.inheritance.vocabulary import tokens_for
from inheritune.recipe import Choice, Inherit, Reference, Size, Submodules, check, model_at, vocabulary_count
from inheritune.results import BlockChoice, Inherited, Refit, ShapeChoice, UnitChoice
from inheritune.runlog import logger

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

REFIT_TOKENS = Size(8192, "tokens")
"""How much text the choice of units and the refit look at, unless the caller says otherwise."""
NOTES = "inheritance.json"
"""The file in a checkpoint with figures of what was inherited."""


@dataclass(frozen=True)
class Made:
    """A small model, and how it was made. `tokenizer` is that of its vocabulary."""

    target: "PreTrainedModel"
    plan: Plan
    tokenizer: "PreTrainedTokenizerBase | None" = None
    refit: Refit | None = None
    units: UnitChoice | None = None
    shape: ShapeChoice | None = None


def inherit(
    reference: "str | Path | Reference | PreTrainedModel",
    layers: int | float | str | list[int] | None = None,
    choose: Choice = "first",
    *,
    size: str | float | None = None,
    speed: str | None = None,
    shape: str = "auto",
    submodules: Submodules = "all",
    heads: int | float | None = None,
    head_size: int | float | None = None,
    mlp: int | float | None = None,
    hidden: int | float | None = None,
    experts: int | float | None = None,
    vocabulary: int | float | str | None = None,
    importance: str = "auto",
    text: str | Path | Sequence[str | Path] = (),
    refit: str = "auto",
    dtype: "torch.dtype | str | None" = None,
    seed: int = 1,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    out: str | Path | None = None,
) -> "PreTrainedModel":
    """A smaller model made of some of the reference's blocks, its embeddings, final norm and head.

    `reference` is a hub id, a folder, a .gguf file or a loaded model; `layers` is a number of blocks, a fraction,
    'half', 'all', or a list of block numbers from 0; default: half. `size` ('80M parameters', '2 GB', 0.5) and `speed`
    ('2x', '1.5x training') take the place of layers, heads and mlp: the best shape that keeps them is looked for on the
    text (see `inherit.shape` of a recipe). The weights of `submodules` are copied; the others are initialised as the
    architecture does it, drawn with `seed`, like the whole model with 'none'.

    `heads`, `head_size`, `mlp`, `hidden` and `experts` are how much each block keeps along these axes, `vocabulary` how
    many tokens the model keeps: numbers or fractions, or 'text' for the tokens that the text needs. `importance` says
    how units are chosen, see `inherit.importance` of a recipe. `text` (files, folders, patterns or addresses) is what
    choices and the refit look at; a loaded model then needs its `tokenizer`. `refit` is how much of it is used to fit
    the blocks to stand in for what was dropped: a size such as '16K tokens', 'none', or 'auto': 8,192 tokens where
    there is text and the blocks can be refitted.

    Weights keep the reference's dtype unless `dtype` names another; no memory is shared with the reference. Of
    safetensors files only what is inherited is read, where nothing looks at text. With `out`, model and tokenizer are
    written there as a Hugging Face checkpoint, with the plan in figures in inheritance.json.
    Raises InputError for a selection that does not exist or would change what a block computes, for blocks that cannot
    be refitted, for a damaged checkpoint or one whose weights are NaN (large tensors are sampled), and when `out`
    exists or another process is making it.
    Source: arXiv 2404.08634 v4, algorithm 1, steps 1 to 3; sub-modules: table 3.
    """
    spec = inherit_settings(
        layers, choose, submodules, size=size, speed=speed, shape=shape, heads=heads, head_size=head_size, mlp=mlp,
        hidden=hidden, experts=experts, vocabulary=vocabulary, importance=importance,
    )  # fmt: skip
    with ExitStack() as held:
        folder = None if out is None else held.enter_context(free_output(Path(out)))
        if isinstance(reference, str | Path):
            reference = model_at(reference)
        look = calibration(text, refit)
        made = make(reference, spec, look, seed=seed, dtype=as_dtype(dtype), tokenizer=tokenizer)
        if folder is not None:
            own = find_tokenizer(reference, log=True) if isinstance(reference, Reference) else tokenizer
            found = made.tokenizer or own
            save_model(made.target, found, folder, _notes(reference, spec, replace(made, tokenizer=found)))
    return made.target


@dataclass(frozen=True)
class Calibration:
    """What choices and the refit look at. `refit` says whether blocks are refitted; None: where they can be."""

    text: CalibrationText | None
    refit: bool | None


def calibration(
    paths: str | Path | Sequence[str | Path] = (), refit: str = "auto", prefix: str = "auto"
) -> Calibration:  # fmt: skip
    """What to look at, from a caller's values. Raises InputError for a refit without text, or a size that is none."""
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    tokens = None if refit == "auto" else check(Inherit, {"refit": refit}, "refit").refit
    if not listed:
        if tokens is not None:
            raise InputError("refit", f"{refit}, and there is no text", "give text, or remove it")
        return Calibration(None, False)
    wanted = None if refit == "auto" else tokens is not None
    return Calibration(CalibrationText(listed, tokens or REFIT_TOKENS, prefix), wanted)


def make(
    reference: "Reference | PreTrainedModel", spec: Inherit, look: Calibration, *, seed: int = 1,
    dtype: "torch.dtype | None" = None, tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> Made:  # fmt: skip
    """The small model that `spec` describes, with the weights of `reference`. Raises InputError as `inherit` does."""
    if not isinstance(reference, Reference):
        check_loaded(reference)
    chosen = None
    if spec.has_budget:
        spec, chosen = with_shape(reference, spec, look, tokenizer=tokenizer)
    config = load_config(reference) if isinstance(reference, Reference) else reference.config
    decided, refits = resolve(spec, config), _refits(reference, spec, look)
    tokens, tokenizer = _tokens(reference, config, spec, look, tokenizer)
    if spec.chooses_units:
        made = _with_chosen_units(reference, spec, look, refits, dtype, tokenizer)
    elif refits:
        assert look.text is not None
        target, plan, done = derive_refitted(
            reference, decided, look.text.rows, seed=seed, dtype=dtype, tokenizer=tokenizer
        )
        made = Made(target, plan, refit=done)
    elif tokens is not None:
        spec_of = replace(decided, width=replace(decided.width, vocabulary=tokens))
        made = Made(*derive(reference, spec_of, seed=seed, dtype=dtype))
    else:
        made = Made(*derive(reference, decided, seed=seed, dtype=dtype))
    made = replace(made, shape=chosen)
    if tokens is None:
        return made
    assert tokenizer is not None
    if made.target.config.vocab_size != len(tokens):
        every = tuple(range(layer_count(made.target.config)))
        fewer, _ = derive(made.target, TargetSpec(every, width=Selection(vocabulary=tokens)))
        made = replace(made, target=fewer)
    return replace(made, tokenizer=trim_tokenizer(tokenizer, tokens))


def with_budget(reference: Reference, spec: Inherit, look: Calibration) -> tuple[Inherit, ShapeChoice | None]:
    """`spec` with a number of whole blocks in place of size and speed, if any, and what was measured for a speed."""
    if not spec.has_budget:
        return spec, None
    config = load_config(reference)
    tokens = _tokens(reference, config, spec, look, None)[0]
    return _whole_blocks(config, spec, tokens, reference.trust_remote_code)


def _whole_blocks(
    config: "PretrainedConfig", spec: Inherit, tokens: Indices | None, trust: bool
) -> tuple[Inherit, ShapeChoice | None]:  # fmt: skip
    """`spec` with a number of whole blocks of a model with these tokens, and what was measured for that."""
    own = config if tokens is None else with_vocabulary(config, tokens)
    if spec.speed is None:
        return replace_budget(own, spec, trust, config), None
    from inheritune.inheritance.units.shapes import choose_depth

    choice = choose_depth(own, spec, config, trust_remote_code=trust)
    return without_budget(spec, choice.best.layers), choice


def with_shape(
    reference: "Reference | PreTrainedModel", spec: Inherit, look: Calibration, *,
    dropped: Sequence[int] | None = None, tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> tuple[Inherit, ShapeChoice | None]:  # fmt: skip
    """`spec` with numbers of blocks, heads, neurons and hidden channels in place of size and speed, and what was
    compared or measured for that; None where nothing was.

    `dropped` is the order of a measured choice of blocks. Fewer tokens (`spec.vocabulary`) leave more of a size to the
    blocks. Raises InputError without text.
    """
    config = load_config(reference) if isinstance(reference, Reference) else reference.config
    trust = isinstance(reference, Reference) and reference.trust_remote_code
    total = layer_count(config)
    select_blocks(total, spec.choose, total, dropped=dropped)  # raises InputError for a measured choice without order
    if spec.compares_shapes and look.text is None:
        remedy = "give text, or set shape to depth"
        raise InputError("inherit.shape", "shapes are compared on text, and there is none", remedy)
    tokens, tokenizer = _tokens(reference, config, spec, look, tokenizer)
    if not spec.compares_shapes:
        return _whole_blocks(config, spec, tokens, trust)
    from inheritune.inheritance.units.shapes import choose_shape

    assert look.text is not None
    with ready(reference, tokenizer, "cpu", "float32") as (model, its):
        if tokens is not None and its is not None:
            model = derive(model, TargetSpec(tuple(range(total)), width=Selection(vocabulary=tokens)))[0].eval()
            its = trim_tokenizer(its, tokens)
        choice = choose_shape(model, look.text.rows(model, its), spec, dropped, config, trust_remote_code=trust)
    blocks = select_blocks(choice.best.layers, spec.choose, total, dropped=dropped)
    return shaped(spec, choice).model_copy(update={"layers": blocks, "choose": "first"}), choice


def shaped(spec: Inherit, choice: ShapeChoice) -> Inherit:
    """`spec` with the numbers of the chosen shape in place of size and speed."""
    best = choice.best
    hidden = spec.hidden if best.hidden is None else best.hidden
    units = {"heads": best.heads, "mlp": best.mlp, "hidden": hidden}
    return without_budget(spec, best.layers).model_copy(update=units)


def _tokens(
    reference: "Reference | PreTrainedModel", config: "PretrainedConfig", spec: Inherit, look: Calibration,
    tokenizer: "PreTrainedTokenizerBase | None",
) -> "tuple[Indices | None, PreTrainedTokenizerBase | None]":  # fmt: skip
    """The tokens that are kept, None for all, and the tokenizer. Raises InputError without text to choose them on."""
    if spec.vocabulary is None:
        return None, tokenizer
    if look.text is None:
        raise InputError("inherit.vocabulary", "tokens are chosen on text, and there is none", "give text")
    if tokenizer is None and isinstance(reference, Reference):
        tokenizer = find_tokenizer(reference, log=True)
    if tokenizer is None:
        raise InputError("inherit.vocabulary", "the reference comes without a tokenizer", "give the tokenizer")
    size = vocabulary_count(spec.vocabulary, config.vocab_size)
    return tokens_for(reference, tokenizer, documents(look.text.paths), size), tokenizer


def _refits(reference: "Reference | PreTrainedModel", spec: Inherit, look: Calibration) -> bool:
    """Whether blocks are refitted. Raises InputError where they have to be and cannot."""
    if look.refit is False or look.text is None:
        return False
    try:
        if isinstance(reference, Reference):
            planned = plan_for(reference, spec)
        else:
            planned = open_source(reference, spec).planned
        return any(refitted_matrices(planned))
    except InputError as error:
        if look.refit:
            raise
        logger.info(f"blocks are not refitted: {error}")
        return False


def _with_chosen_units(
    reference: "Reference | PreTrainedModel", spec: Inherit, look: Calibration, refits: bool,
    dtype: "torch.dtype | None", tokenizer: "PreTrainedTokenizerBase | None",
) -> Made:  # fmt: skip
    """The target whose units are chosen by their importance."""
    from inheritune.inheritance.units.narrowing import derive_chosen

    with ready(reference, tokenizer, "cpu", "float32") as (model, its):
        stored = model.config.dtype if isinstance(reference, Reference) else reference.dtype
        rows = None if look.text is None else look.text.rows(model, its)
        done = derive_chosen(model, resolve(spec, model.config), spec.importance, rows, refits=refits)
    target = in_dtype(done.target, dtype or stored or done.target.dtype)
    return Made(target, done.plan, refit=done.refit, units=done.choice)


def write(
    reference: Reference, spec: Inherit, folder: Path, *, dtype: "torch.dtype | None" = None, seed: int = 1,
    selection: BlockChoice | None = None, look: Calibration | None = None, shape: ShapeChoice | None = None,
) -> Made:  # fmt: skip
    """Write the target of `spec` as a checkpoint to `folder`, held by `free_output`, and nothing more: see `inherit`.

    Where every tensor of the target is a stored one of the reference, the bytes go from file to file. The log says
    where there is no tokenizer; `selection` and `shape` are the measured choices that led to `spec`, for the model
    card. The result's target has no weights where none had to be computed.
    """
    look = look or Calibration(None, False)
    if spec.chooses_units or spec.has_budget or spec.vocabulary is not None or look.refit is not False:
        tokenizer = find_tokenizer(reference, log=True)
        made = make(reference, spec, look, seed=seed, dtype=dtype, tokenizer=tokenizer)
        made = replace(made, tokenizer=made.tokenizer or tokenizer, shape=made.shape or shape)
        save_model(made.target, made.tokenizer, folder, _notes(reference, spec, made, selection))
        return made
    source = open_source(reference, spec)
    tokenizer = find_tokenizer(reference, log=True)
    if tokenizer is None:  # a checkpoint that is only trained further needs none
        logger.info(f"{reference.path}: no tokenizer there, so none is written; name one with --tokenizer")
    planned = source.planned
    made = Made(planned.target, planned.plan, tokenizer, shape=shape)
    notes = _notes(reference, spec, made, selection)
    placement = source.placement
    if placement is not None and placement.is_plain and planned.plan.is_whole and dtype is None:
        check_stored_numbers(placement.tensors().values(), source.place)
        save_stored(placement, planned.target, tokenizer, folder, notes)
    else:
        save_model(source.build(seed, dtype), tokenizer, folder, notes)
    return made


def _notes(
    reference: "Reference | PreTrainedModel", spec: Inherit, made: Made, selection: BlockChoice | None = None
) -> dict[str, Any]:
    """The files beside the weights: the plan in figures, the model card, the reference's licence."""
    figures = describe_made(made)
    readers = readers_of(made.target.config, made.tokenizer)
    notes: dict[str, Any] = {NOTES: figures}
    with without_stopping("write README.md by hand"):
        notes |= inherited_files(
            reference, spec, Inherited.model_validate(figures), parameter_count(made.target), readers, selection
        )
    return notes


def describe_made(made: Made) -> dict[str, Any]:
    """How a model was made, in figures, for manifests."""
    parts = {"refit": made.refit, "units": made.units, "shape": made.shape}
    return describe_plan(made.plan) | {name: part.model_dump() for name, part in parts.items() if part is not None}
