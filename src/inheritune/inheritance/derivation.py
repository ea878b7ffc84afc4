"""From a reference to a target: plan, copy, write."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    Names,
    Placement,
    Selection,
    build_skeleton,
    check_numbers,
    check_stored,
    check_stored_numbers,
    find_structure,
    find_tokenizer,
    in_dtype,
    load_config,
    load_generation_config,
    load_model,
    open_weights,
    parameter_count,
    readers_of,
    ready,
    renumbered,
    save_model,
    save_stored,
)
from inheritune.card import inherited_files, without_stopping
from inheritune.errors import InputError
from inheritune.inheritance.application import from_files, from_model, place
from inheritune.inheritance.plan import Plan, describe_plan
from inheritune.inheritance.refit_plan import CalibrationText, refitted_matrices
from inheritune.inheritance.resolution import resolve
from inheritune.inheritance.target import PlannedTarget, TargetSpec, draft_target, target_config
from inheritune.recipe import Choice, Inherit, Reference, Submodules, check, model_at
from inheritune.results import BlockChoice, Inherited, Refit
from inheritune.runlog import check_name, claimed, logger

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from inheritune.data import Rows

REFIT_TOKENS = "8192 tokens"
"""From how much text kept blocks are refitted, unless the caller says otherwise."""
NOTES = "inheritance.json"
"""The file in a checkpoint with figures of what was inherited."""


def inherit(
    reference: "str | Path | Reference | PreTrainedModel",
    layers: int | float | str | list[int] = 0.5,
    choose: Choice = "first",
    *,
    submodules: Submodules = "all",
    heads: int | float | None = None,
    mlp: int | float | None = None,
    hidden: int | float | None = None,
    dtype: "torch.dtype | str | None" = None,
    seed: int = 1,
    refit: str | Path | Sequence[str | Path] = (),
    refit_tokens: str = REFIT_TOKENS,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    out: str | Path | None = None,
) -> "PreTrainedModel":
    """A smaller model made of some of the reference's blocks, its embeddings, final norm and head.

    `reference` is a hub id, a folder, a .gguf file or a loaded model; `layers` is a number of blocks, a fraction,
    'half', 'all', or a list of block numbers from 0. The weights of `submodules` are copied; the others are initialised
    as the architecture does it, drawn with `seed`, like the whole model with 'none'. `heads`, `mlp` and `hidden` are
    how much each block keeps of its query heads, MLP neurons and hidden channels: a number, or a fraction. Weights keep
    the reference's dtype unless `dtype` names another; no memory is shared with the reference. Of safetensors files
    only what is inherited is read. With `out`, model and tokenizer are written there as a Hugging Face checkpoint, with
    the plan in figures in inheritance.json; the log names a rebuilt tokenizer. `refit` is text (files, folders,
    patterns or addresses) from whose first `refit_tokens` tokens the kept blocks are fitted to stand in for the dropped
    ones (see `refit`); a loaded model then needs its `tokenizer`.

    Raises InputError for a selection that does not exist or would change what a block computes, for blocks that cannot
    be refitted, for a damaged checkpoint or one whose weights are NaN (large tensors are sampled), and when `out`
    exists or another process is making it.
    Source: arXiv 2404.08634 v4, algorithm 1, steps 1 to 3; sub-modules: table 3; half width: table 5.
    """
    spec = inherit_settings(layers, choose, submodules, heads=heads, mlp=mlp, hidden=hidden)
    with ExitStack() as held:
        folder = None if out is None else held.enter_context(free_output(Path(out)))
        kind = as_dtype(dtype)
        if isinstance(reference, str | Path):
            reference = model_at(reference)
        text, done = calibration_text(refit, refit_tokens), None
        if text is None:
            target, plan = derive(reference, spec, seed=seed, dtype=kind)
        else:
            target, plan, done = derive_refitted(reference, spec, text.rows, seed=seed, dtype=kind, tokenizer=tokenizer)
        if folder is not None:
            found = find_tokenizer(reference, log=True) if isinstance(reference, Reference) else tokenizer
            save_model(target, found, folder, _notes(reference, spec, plan, target, found, refit=done))
    return target


def write(
    reference: Reference,
    spec: Inherit,
    folder: Path,
    *,
    dtype: "torch.dtype | None" = None,
    seed: int = 1,
    selection: BlockChoice | None = None,
    refit: CalibrationText | None = None,
) -> PlannedTarget:
    """Write the target of `spec` as a checkpoint to `folder`, held by `free_output`, and nothing more: see `inherit`.

    Where every tensor of the target is a stored one of the reference, the bytes go from file to file. The log says
    where there is no tokenizer; `selection` is the measured choice that led to `spec`, for the model card. With
    `refit`, blocks are refitted on that text.
    """
    if refit is not None:
        tokenizer = find_tokenizer(reference, log=True)
        target, plan, done = derive_refitted(reference, spec, refit.rows, seed=seed, dtype=dtype, tokenizer=tokenizer)
        save_model(target, tokenizer, folder, _notes(reference, spec, plan, target, tokenizer, selection, done))
        return PlannedTarget(plan, target)
    source = open_source(reference, spec)
    tokenizer = find_tokenizer(reference, log=True)
    if tokenizer is None:  # a checkpoint that is only trained further needs none
        logger.info(f"{reference.path}: no tokenizer there, so none is written; name one with --tokenizer")
    notes = _notes(reference, spec, source.planned.plan, source.planned.target, tokenizer, selection)
    placement = source.placement
    if placement is not None and placement.is_plain and source.planned.plan.is_whole and dtype is None:
        check_stored_numbers(placement.tensors().values(), source.place)
        save_stored(placement, source.planned.target, tokenizer, folder, notes)
    else:
        save_model(source.build(seed, dtype), tokenizer, folder, notes)
    return source.planned


def _notes(
    reference: "Reference | PreTrainedModel", spec: Inherit, plan: Plan, target: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None", selection: BlockChoice | None = None, refit: Refit | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The files beside the weights: the plan in figures, the model card, the reference's licence."""
    figures = describe_plan(plan) | ({} if refit is None else {"refit": refit.model_dump()})
    readers = readers_of(target.config, tokenizer)
    notes: dict[str, Any] = {NOTES: figures}
    with without_stopping("write README.md by hand"):
        notes |= inherited_files(
            reference, spec, Inherited.model_validate(figures), parameter_count(target), readers, selection
        )
    return notes


def derive(
    reference: "Reference | PreTrainedModel",
    spec: Inherit | TargetSpec,
    *,
    seed: int = 1,
    dtype: "torch.dtype | None" = None,
) -> "tuple[PreTrainedModel, Plan]":
    """The target of `spec` and the plan by which it was made; see `inherit`."""
    source = open_source(reference, spec)
    return source.build(seed, dtype), source.planned.plan


def derive_refitted(
    reference: "Reference | PreTrainedModel", spec: Inherit | TargetSpec,
    rows_of: "Callable[[PreTrainedModel, PreTrainedTokenizerBase | None], Rows]", *, seed: int = 1,
    dtype: "torch.dtype | None" = None, tokenizer: "PreTrainedTokenizerBase | None" = None, device: str = "cpu",
) -> "tuple[PreTrainedModel, Plan, Refit]":  # fmt: skip
    """As `derive`, with blocks refitted (see `refit`) on the sequences that `rows_of` gives for model and tokenizer.

    The reference is loaded whole, and computes in float32 on `device` (mps has no float64, so the CPU stands in for
    it). Raises InputError as `inherit` does, and before a weight is read where the blocks cannot be refitted.
    """
    import torch

    from inheritune.inheritance.fitting import refit

    if isinstance(spec, TargetSpec) and spec.width.vocabulary is not None:  # the text has the reference's tokens
        whole = replace(spec, width=spec.width.without_vocabulary)
        target, _, done = derive_refitted(
            reference, whole, rows_of, seed=seed, dtype=dtype, tokenizer=tokenizer, device=device
        )
        fewer = TargetSpec(tuple(range(len(spec.blocks))), width=Selection(vocabulary=spec.width.vocabulary))
        planned = plan_for(reference, spec) if isinstance(reference, Reference) else draft_target(reference, spec)
        return derive(target, fewer)[0], planned.plan, done
    if isinstance(reference, Reference):
        planned, place = plan_for(reference, spec), reference.title
    else:
        planned, place = open_source(reference, spec).planned, "reference"
    names, stored = refitted_matrices(planned), dtype or planned.target.dtype
    device = "cpu" if device == "mps" else device
    with ready(reference, tokenizer, device, "float32") as (model, its):
        rows = rows_of(model, its)
        decided = resolve(spec, model.config)
        target = _loaded(model, decided, place).build(seed, torch.float32).to(device)
        done = refit(target, model, planned.plan.kept, names, rows, hidden=decided.width.hidden)
    return in_dtype(target.cpu(), stored), planned.plan, done


def calibration_text(
    paths: str | Path | Sequence[str | Path], tokens: str, prefix: str = "auto"
) -> CalibrationText | None:  # fmt: skip
    """What a refit looks at; None without paths. Raises InputError for a number of tokens that is none."""
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    count = check(Inherit, {"refit": tokens}, "refit").refit
    if not listed:
        return None
    if count is None:
        raise InputError("refit", f"text to refit on, and {tokens!r} of it", "give a number of tokens, or no text")
    return CalibrationText(listed, count, prefix)


def _check_loaded(model: object) -> None:
    """Raise InputError for anything but a transformers model with weights."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        legal = "give a hub id, a folder, a .gguf file, a Reference, or a transformers.PreTrainedModel"
        raise InputError("reference", f"got a {type(model).__name__}", legal)
    if any(tensor.is_meta for tensor in model.parameters()):
        raise InputError("reference", "the model is on the meta device, so it has no weights", "load its weights")


@dataclass(frozen=True)
class Source:
    """A planned target, and where its weights come from: stored files, or a model where those must be loaded whole."""

    planned: PlannedTarget
    placement: Placement | None
    model: "PreTrainedModel | None"
    place: str

    def build(self, seed: int, dtype: "torch.dtype | None" = None) -> "PreTrainedModel":
        """The target with its weights."""
        if self.placement is None:
            assert self.model is not None
            target = from_model(self.planned, self.model, seed, dtype)
        else:
            target = from_files(self.planned, self.placement, seed, dtype or self.planned.target.config.dtype)
        check_numbers(target, self.place)
        settings = self.planned.target.generation_config
        if settings is not None:
            target.generation_config = type(settings).from_dict(settings.to_dict())
        return target


def plan_for(reference: Reference, spec: Inherit | TargetSpec) -> PlannedTarget:
    """What would be inherited, from the reference's config alone. Raises InputError as `derive` does."""
    config = load_config(reference)
    if config.dtype is None and Path(str(reference.path)).expanduser().is_dir():  # the files' headers know it
        weights = open_weights(reference, config)
        config.dtype = None if weights is None else weights.dtype
    return _planned(reference, config, resolve(spec, config, trust_remote_code=reference.trust_remote_code))[1]


def _planned(
    reference: Reference, config: "PretrainedConfig", spec: TargetSpec
) -> "tuple[PreTrainedModel, PlannedTarget]":
    """The reference without memory, and the target."""
    target_config(config, spec)  # what the config shows, before a second is spent on the model
    skeleton = build_skeleton(config, reference.trust_remote_code)
    return skeleton, draft_target(skeleton, spec)


def open_source(reference: "Reference | PreTrainedModel", spec: Inherit | TargetSpec) -> Source:
    """Plan the target and open the reference's weights, checked as far as can be without reading them.

    Raises InputError as `inherit` does.
    """
    if not isinstance(reference, Reference):
        _check_loaded(reference)
        return _loaded(reference, resolve(spec, reference.config), "reference")
    config = load_config(reference)
    decided = resolve(spec, config, trust_remote_code=reference.trust_remote_code)
    skeleton, made = _planned(reference, config, decided)
    _set_generation(made, load_generation_config(reference), decided, config)
    names = Names(skeleton)
    wanted = made.plan.wanted()
    weights = open_weights(reference, config, lambda stored: names.of(stored) in wanted)
    placement = None
    if weights is not None:
        check_stored(weights, names, find_structure(skeleton))
        placement = place(made, names, weights)
    if weights is None or placement is None:
        return _loaded(load_model(reference), decided, reference.title)
    if config.dtype is None:  # then the files decide
        made.target.config.dtype = weights.dtype
    return Source(made, placement, None, reference.title)


def _loaded(model: "PreTrainedModel", spec: TargetSpec, place: str) -> Source:
    planned = draft_target(model, spec)
    _set_generation(planned, model.generation_config, spec, model.config)
    return Source(planned, None, model, place)


def _set_generation(
    planned: PlannedTarget, settings: "GenerationConfig | None", spec: TargetSpec, config: "PretrainedConfig"
) -> None:
    """Give the target the reference's settings for generation, with the new ids of tokens."""
    tokens = spec.width.vocabulary
    if settings is not None:
        kept = settings if tokens is None else renumbered(settings, tokens, config.vocab_size)
        planned.target.generation_config = kept


def inherit_settings(layers: Any, choose: Any = "first", submodules: Any = "all", **more: Any) -> Inherit:
    """A caller's values as checked settings; `more` are further keys of `inherit`, which have defaults.

    Raises InputError that lists everything wrong, with what is legal.
    """
    return check(Inherit, {"layers": layers, "choose": choose, "submodules": submodules} | more, "inherit")


def as_dtype(dtype: "torch.dtype | str | None") -> "torch.dtype | None":
    """A torch dtype of floating-point numbers by its name; None stays None (as stored). Raises InputError."""
    import torch

    legal = ("float64", "float32", "float16", "bfloat16")
    name = str(dtype).removeprefix("torch.")
    if dtype is None:
        return None
    if name not in legal:
        raise InputError("dtype", f"got {dtype!r}", f"legal are {', '.join(legal)}; default: as stored")
    kind: torch.dtype = getattr(torch, name)
    return kind


@contextmanager
def free_output(path: Path) -> Iterator[Path]:
    """As `check_free`; inside, no other process makes the same output. Raises InputError where one does."""
    with claimed(check_free(path)):
        yield check_free(path)  # again, as another one may have made it until now


def check_free(path: Path) -> Path:
    """The place of a file or folder to be made, as an absolute path with links followed.

    Raises InputError when something exists there (except for an empty folder, or one with only the partial files of a
    killed process), and when nothing can be made there. Also removes what a process that was killed while tidying up
    left beside its result.
    """
    check_name(path)
    place = path.expanduser().resolve()
    partial = re.compile(r"\.lock|\..+\.(partial|lock)")
    if place.exists() and not (place.is_dir() and all(partial.fullmatch(entry.name) for entry in place.iterdir())):
        if place.name:  # "/" has none
            with contextlib.suppress(InputError, OSError), claimed(place):  # which removes its own lock
                place.with_name(f".{place.name}.drops.json").unlink(missing_ok=True)
        raise InputError(str(path), "exists already", "give another folder, or remove it")
    if place == Path.cwd():  # the folder is replaced, and a shell in it would be in a deleted one
        raise InputError(str(path), "is the folder that you are in", "go up, and name it from there")
    above = next(folder for folder in place.parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise InputError(
            str(path), f"cannot be made: {above} is not a folder that can be written", "give another place"
        )
    return place
