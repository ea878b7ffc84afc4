"""From a reference to a target: plan, copy, write."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    Names,
    Placement,
    build_skeleton,
    check_numbers,
    check_stored,
    find_structure,
    in_dtype,
    load_config,
    load_generation_config,
    load_model,
    open_weights,
    ready,
    renumbered,
)
from inheritune.errors import InputError
from inheritune.inheritance.application import from_files, from_model, place
from inheritune.inheritance.plan import Plan
from inheritune.inheritance.refit_plan import refitted_matrices
from inheritune.inheritance.resolution import resolve
from inheritune.inheritance.target import PlannedTarget, TargetSpec, draft_target, target_config
from inheritune.recipe import Inherit, Reference, check
from inheritune.results import Refit
from inheritune.runlog import check_name, claimed

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from inheritune.data import Rows


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


def check_loaded(model: object) -> None:
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
        check_loaded(reference)
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
    """A caller's values as checked settings; `more` are further keys of `inherit`. None stands for the default.

    Raises InputError that lists everything wrong, with what is legal.
    """
    fields = {"layers": layers, "choose": choose, "submodules": submodules} | more
    return check(Inherit, {key: value for key, value in fields.items() if value is not None}, "inherit")


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
