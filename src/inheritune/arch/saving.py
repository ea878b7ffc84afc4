"""Writing a Hugging Face checkpoint that plain transformers loads."""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch.byte_copy import write_tensors
from inheritune.arch.compatibility import make_readable, save_tokenizer
from inheritune.arch.weights import Placement
from inheritune.errors import RunError
from inheritune.runlog import copy_own, named, new_folder, write_json, write_text

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_SHARD_BYTES = 5 * 10**9


def save_model(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: Path,
    notes: Mapping[str, Any] | None = None,
    frame: Path | None = None,
) -> None:
    """Write model, tokenizer and `notes` to `folder`, which appears whole or not at all.

    `notes` are files by name: a text as it is, all else as JSON. The files of a `frame` (see `save_frame`) take the
    place of those written. Raises RunError when the disk is full.
    """
    from transformers import GenerationConfig

    with _whole(folder) as partial:
        generation = model.generation_config
        try:  # transformers refuses to save contradictory generation settings; ours are saved as they came
            model.generation_config = GenerationConfig()
            model.save_pretrained(partial)
        finally:
            model.generation_config = generation
        _save_rest(generation, tokenizer, partial, notes or {})
        if frame is not None:
            copy_own(frame, partial)
        make_readable(partial, type(model.config))


def save_frame(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase | None", folder: Path) -> None:
    """Write to `folder` what `save_model` writes, except the weights."""
    with _whole(folder) as partial:
        _save_config(model, model.dtype, partial)
        _save_rest(model.generation_config, tokenizer, partial, {})


def save_stored(
    placement: Placement,
    skeleton: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: Path,
    notes: Mapping[str, Any],
) -> None:
    """Write the checkpoint of `skeleton` to `folder` from the tensors of another checkpoint, byte for byte.

    Files of at most 5 GB, one at a time; the bytes go from file to file and take no memory here. Like `cp`, it does not
    wait for the disk: the reference is still there, and waiting takes as long again as copying.
    """
    from huggingface_hub import split_state_dict_into_shards_factory

    with _whole(folder, durable=False) as partial:
        tensors = {name: placement.tensor(name) for name in sorted(placement.names, key=_natural)}
        shards = split_state_dict_into_shards_factory(
            tensors,
            get_storage_size=lambda tensor: tensor.bytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=_SHARD_BYTES,
        )
        for file, names in shards.filename_to_tensors.items():
            write_tensors(partial / file, {name: tensors[name] for name in names})
        if shards.is_sharded:
            index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
            write_json(partial / "model.safetensors.index.json", index)
        _save_config(skeleton, skeleton.config.dtype, partial)
        _save_rest(skeleton.generation_config, tokenizer, partial, notes)


def _save_config(model: "PreTrainedModel", dtype: Any, folder: Path) -> None:
    """Write the config as transformers does beside weights of this dtype, and a model's own code."""
    from transformers.dynamic_module_utils import custom_object_save

    config = copy.deepcopy(model.config)
    config.dtype = dtype
    config.architectures = [type(model).__name__]
    if model.is_remote_code():
        custom_object_save(model, folder, config=config)
    config.save_pretrained(folder)
    make_readable(folder, type(config))


def _save_rest(
    generation: "GenerationConfig | None",
    tokenizer: "PreTrainedTokenizerBase | None",
    folder: Path,
    notes: Mapping[str, Any],
) -> None:
    if generation is not None:
        generation.to_json_file(folder / "generation_config.json")
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    for name, value in notes.items():
        if isinstance(value, str):
            write_text(folder / name, value)
        else:
            write_json(folder / name, value)


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts block 10 behind block 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


@contextlib.contextmanager
def _whole(folder: Path, durable: bool = True) -> Iterator[Path]:
    from safetensors import SafetensorError

    try:
        with named(folder), new_folder(folder, durable) as partial:
            yield partial
    except Exception as error:
        if not isinstance(error, SafetensorError) and type(error) is not Exception:  # tokenizers raises that
            raise
        raise RunError(str(folder), f"cannot be written ({error})", "make room, then start again") from None
