"""What is measured: named shapes, any config, or the first target of a recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import build_random, check_positions, load_config, new_config, planned_config
from inheritune.errors import InputError
from inheritune.inheritance import replace_budget, target_config
from inheritune.inheritance import resolve as resolve_target
from inheritune.recipe import MEASURED, Recipe, Training, check, load_recipe, model_at, override
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

SHAPES: dict[str, dict[str, Any]] = {
    "standard": {
        "model": {
            "model_type": "gpt2", "n_layer": 8, "n_embd": 384, "n_head": 6, "n_positions": 256,
            "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
        },
        "vocabulary": 8192,
        "train": {"batch": "8 sequences", "sequence_length": 256, "precision": "float32"},
    },
    "openllama-1.5b": {
        "model": {
            "model_type": "llama", "num_hidden_layers": 13, "hidden_size": 3200, "intermediate_size": 8640,
            "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
        },
        "vocabulary": 32000,
        "train": {"batch": "8 sequences", "sequence_length": 2048, "precision": "bfloat16"},
    },
}  # fmt: skip
"""Named shapes: a transformers config's fields, the vocabulary, and the `train` keys that belong to the shape."""


def resolve(
    shape: "str | PretrainedConfig", training: Training | dict[str, Any] | None, runtime: Runtime
) -> "tuple[str, PretrainedConfig, Training]":
    """Name, config and settings of what is measured. Raises InputError for what does not exist or does not fit."""
    own: dict[str, Any] = {"length": "1 steps", "batch": "8 sequences"}
    if isinstance(shape, str):
        if shape not in SHAPES:
            raise InputError("shape", f"there is no {shape!r}", f"shapes are {', '.join(SHAPES)}")
        own |= SHAPES[shape]["train"] | _small_memory(shape, runtime)
    else:
        own["sequence_length"] = min(1024, getattr(shape, "max_position_embeddings", None) or 1024)
    if not isinstance(training, Training):
        training = check(Training, own | (training or {}), "train")
    if training.compile == "auto":
        training = training.model_copy(update={"compile": True})
    if isinstance(shape, str):
        fields, length = dict(SHAPES[shape]["model"]), training.sequence_length
        positions = "n_positions" if "n_positions" in fields else "max_position_embeddings"
        fields[positions] = max(fields[positions], length)
        return shape, new_config(fields, SHAPES[shape]["vocabulary"], {}, length), training
    check_positions(shape, training.sequence_length, "train.sequence_length")
    return shape.name_or_path or shape.model_type, shape, training


def _small_memory(shape: str, runtime: Runtime) -> dict[str, Any]:
    """What the large shape needs where its 29 GB of weights, gradients and states leave too little memory free."""
    if runtime.device != "cuda" or shape == "standard":
        return {}
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory
    if memory > 60e9:
        return {}
    return {"activation_checkpointing": True} | ({} if memory > 36e9 else {"optimizer": {"states": "8bit"}})


def recipe_shape(recipe: Recipe) -> "PretrainedConfig":
    """The config of the first round's target of a recipe. Raises InputError as inheriting does."""
    config = planned_config(recipe.reference, recipe.train.sequence_length)
    spec = replace_budget(config, recipe.inherit, recipe.reference.trust_remote_code)
    if spec.choose in MEASURED:  # blocks are of one shape in nearly all models
        spec = spec.model_copy(update={"choose": "first"})
    return target_config(config, resolve_target(spec, config))


def request(
    shape: str | None, model: str | None, recipe: Path | None, overrides: Sequence[str], device: str | None,
    threads: int | None,
) -> dict[str, Any]:  # fmt: skip
    """The arguments of `bench` that choose what is measured, from a command's words: at most one of the first three.

    `overrides` are texts such as `optimizer.name=muon`, keys of `train`. Raises InputError when more than one is given
    or the recipe or model cannot be read.
    """
    if sum(word is not None for word in (shape, model, recipe)) > 1:
        raise InputError("command line", "more than one shape", "give one of --shape, --model and --recipe")
    place = {"device": device or "auto", "threads": threads}
    if recipe is None:
        config = shape or "standard" if model is None else load_config(model_at(model))
        return {"shape": config, "training": override({}, overrides), **place}
    read = load_recipe(recipe, [f"train.{text.lstrip('-')}" for text in overrides])
    if device is None:
        place["device"] = read.hardware.device
    if threads is None:
        place["threads"] = read.hardware.threads
    return {"shape": recipe_shape(read), "training": read.train, "evaluate": read.evaluate, **place}


def build(config: "PretrainedConfig", runtime: Runtime) -> "PreTrainedModel":
    """A random model in float32, drawn on the device that it is trained on, which is quicker than moving it there."""
    import torch

    with torch.device(runtime.device):
        return build_random(config, seed=1).to(runtime.device)
