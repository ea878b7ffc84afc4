"""From a reference to a target: select, plan, apply, check."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    build_empty,
    check_cache,
    check_decoder,
    check_movable,
    differences,
    find_structure,
    load_model,
    load_tokenizer,
    save_model,
    shorten,
)
from inheritune.errors import InputError
from inheritune.inheritance.plan import Plan, plan_copies
from inheritune.inheritance.selection import select_blocks
from inheritune.recipe import Choice, Reference, parse_layers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def inherit(
    reference: "str | Path | Reference | PreTrainedModel",
    layers: int | float | str | list[int] = 0.5,
    choose: Choice = "first",
    *,
    out: str | Path | None = None,
) -> "PreTrainedModel":
    """A smaller model made of some of the reference's blocks, its embeddings, final norm and head.

    `reference` is a hub id, a folder, a .gguf file or a loaded model; `layers` is a number of blocks, a fraction,
    'half', or a list of block numbers from 0. Weights keep the reference's dtype; no memory is shared with the
    reference. With `out`, model and tokenizer are written there as a Hugging Face checkpoint.

    Raises InputError for a selection that is not there or that would change what a block computes, and when `out`
    exists.
    Source: arXiv 2404.08634 v4, algorithm 1, steps 1 to 3.
    """
    wish = _checked_layers(layers)
    folder = None if out is None else Path(out)
    if folder is not None:
        check_free(folder)
    if isinstance(reference, str | Path):
        reference = Reference(path=str(reference))
    model = load_model(reference) if isinstance(reference, Reference) else reference
    target, _ = derive(model, wish, choose)
    if folder is not None:
        tokenizer = load_tokenizer(reference) if isinstance(reference, Reference) else None
        save_model(target, tokenizer, folder)
    return target


def derive(
    reference: "PreTrainedModel", layers: int | float | list[int], choose: Choice = "first"
) -> "tuple[PreTrainedModel, Plan]":
    """The target and the plan by which it was made; see `inherit`."""
    import torch

    check_decoder(reference.config)
    structure = find_structure(reference)
    kept = select_blocks(layers, choose, structure.count)
    short = shorten_for(reference.config, kept)
    with _as_input_error(reference.config, kept):
        target = build_empty(short, reference.dtype)
    blocks = find_structure(target)
    for place, index in enumerate(kept):
        source_block = reference.get_submodule(f"{structure.blocks}.{index}")
        target_block = target.get_submodule(f"{blocks.blocks}.{place}")
        found = differences(source_block, target_block)
        if found:
            raise InputError(
                f"block {index}",
                f"would change at place {place}: {found[0]}",
                "choose other blocks, or choose: first",
            )
    source_tensors, target_tensors = reference.state_dict(), target.state_dict()
    plan = plan_copies(_shapes(source_tensors), _shapes(target_tensors), structure, kept)
    with torch.no_grad():
        for copy in plan.copies:
            target_tensors[copy.target].copy_(source_tensors[copy.source])
    if reference.generation_config is not None:
        target.generation_config = type(reference.generation_config).from_dict(reference.generation_config.to_dict())
    return target.eval(), plan


def shorten_for(config: "PretrainedConfig", kept: list[int]) -> "PretrainedConfig":
    """The config of a target of the blocks `kept`, from the reference's config alone.

    Raises InputError where these blocks cannot make a model, or would compute something else at their new places.
    """
    check_movable(config, kept)
    with _as_input_error(config, kept):
        short = shorten(config, kept)
        check_cache(config, short)
        return short


@contextmanager
def _as_input_error(config: "PretrainedConfig", kept: list[int]) -> Iterator[None]:
    """What transformers says of a config that it refuses, as an error that names the blocks."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (ValueError, TypeError, KeyError, RuntimeError, ZeroDivisionError, StrictDataclassError) as error:
        raise InputError(
            f"{config.model_type}, blocks {kept}",
            f"transformers cannot build a model of them: {error}",
            "choose other blocks",
        ) from None


def check_free(folder: Path) -> None:
    """Raise InputError when something stands at `folder`; what a killed process left half-made does not count."""
    if folder.exists() and not (folder.is_dir() and all(entry.name.startswith(".") for entry in folder.iterdir())):
        raise InputError(str(folder), "exists already", "give another folder, or remove it")


def _checked_layers(layers: Any) -> int | float | list[int]:
    try:
        wish: int | float | list[int] = parse_layers(layers)
    except ValueError as error:
        what, _, remedy = str(error).partition("; ")
        raise InputError("layers", f"got {layers!r}: {what}", remedy or "change it") from None
    return wish


def _shapes(tensors: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
