"""What a decoder is made of, read from the model itself: its repeated blocks, and what is around them."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inheritune.arch.families import EXAMINED, LEAST_BLOCKS, count_field, kv_sources, title
from inheritune.arch.inspection import POSITION, uses_of_place
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedModel

_NUMBERS_MAY_DIFFER = 1e-9  # relative: a constant computed from a changed config may round differently


@dataclass(frozen=True)
class Structure:
    """Where a model has its blocks: `blocks` is the dotted name of the list, `count` its length."""

    blocks: str
    count: int

    def name_in(self, index: int, rest: str) -> str:
        """The full name of a block's tensor."""
        return f"{self.blocks}.{index}.{rest}"

    def split(self, name: str) -> tuple[int, str] | None:
        """The block and the rest of a tensor's name; None for a tensor outside the blocks."""
        prefix = self.blocks + "."
        if not name.startswith(prefix):
            return None
        index, _, rest = name[len(prefix) :].partition(".")
        return int(index), rest


def layer_count(config: "PretrainedConfig") -> int:
    """The number of blocks that a config declares. Raises InputError where it declares none."""
    count = getattr(config, count_field(config), None)
    if not isinstance(count, int) or count < 1:
        what = "the config does not say how many blocks there are"
        raise InputError(title(config), what, "use a decoder language model")
    return count


def check_decoder(config: "PretrainedConfig") -> None:
    """Raise InputError, with the reason, unless `config` is that of a decoder-only text model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    remedy = "use a decoder-only language model (one that AutoModelForCausalLM loads)"
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(title(config), f"{config.model_type} is an encoder-decoder", remedy)
    either = config.model_type in MASKED or config.model_type == "bert-generation"  # gpt_neox: a decoder, with false
    if either and getattr(config, "is_decoder", True) is False:
        raise InputError(title(config), f"{config.model_type} is an encoder here (is_decoder is false)", remedy)
    try:
        text = config.get_text_config()
    except ValueError as error:
        raise InputError(title(config), f"{config.model_type} has several text models ({error})", remedy) from None
    if not hasattr(text, "model_type"):
        raise InputError(title(config), f"its text part is no config ({text!r:.80})", remedy)
    if text is not config:
        inner = f"a text model of type {text.model_type}"
        raise InputError(title(config), f"{config.model_type} wraps {inner} in a larger one", remedy)
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if config.model_type not in CAUSAL and not remote:
        raise InputError(title(config), f"model type {config.model_type!r} has no causal language model", remedy)
    layer_count(config)


def decoder_config(config: "PretrainedConfig") -> "PretrainedConfig":
    """The config of the decoder in a model of `config`: itself, or that of its text part.

    A composite, such as Gemma 3 or Llama 4 with vision, counts as its text part, if transformers knows that type as a
    causal language model. `stored.text_part` and `weights.check_stored` compare this with the stored tensors.

    Raises InputError, with the reason, where there is no decoder-only text model.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL

    text = getattr(config, "text_config", None)
    if type(text) in CAUSAL and _is_composite(config):
        assert text is not None
        if text.dtype is None:
            text.dtype = config.dtype
        text.name_or_path = config.name_or_path
        if not _is_text_of(config):  # the head belongs to the whole model, whose config says whether it is tied
            text.tie_word_embeddings = config.tie_word_embeddings
        config = text
    check_decoder(config)
    return config


def is_text_part(config: "PretrainedConfig") -> bool:
    """Whether only the text part of a model of `config` is inherited. Raises InputError as `decoder_config` does."""
    return decoder_config(config) is not config


def _is_composite(config: "PretrainedConfig") -> bool:
    """Whether a config has other models beside a text model, as opposed to a text model wrapped by another."""
    others = [name for name in config.to_dict() if name.endswith("_config") and name != "text_config"]
    senses = ("vision", "audio", "image", "speech", "vq")
    return any(name.startswith(senses) for name in others) or _is_text_of(config)


def _is_text_of(config: "PretrainedConfig") -> bool:
    """Whether AutoModelForCausalLM builds only the text model of this composite."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING as CAUSAL

    return type(config) in CAUSAL and CAUSAL[type(config)].config_class is type(getattr(config, "text_config", None))


def find_structure(model: "PreTrainedModel") -> Structure:
    """Find the list of blocks: the outermost list of modules with parameters as long as the config's number of layers.

    Raises InputError where there is none or more than one at the same depth.
    """
    from torch import nn

    count = layer_count(model.config)
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and next(module.parameters(), None) is not None
    ]
    made = [name for name in lists if any(next(block.children(), None) for block in model.get_submodule(name))]
    lists = made or lists  # a block has modules; a list of single matrices is no list of blocks
    lists.sort(key=lambda name: name.count("."))
    if not lists or (len(lists) > 1 and lists[0].count(".") == lists[1].count(".")):
        named = "none" if not lists else " and ".join(lists)
        what = f"the model's {count} blocks are not in one list of modules (there are: {named})"
        raise InputError(title(model.config), what, "use a decoder whose blocks are a plain list")
    return Structure(lists[0], count)


def check_movable(config: "PretrainedConfig", kept: list[int]) -> None:
    """Raise InputError where the config shows that these blocks would compute something else at their new places."""
    least = LEAST_BLOCKS.get(config.model_type, 1)
    if len(kept) < least:
        what = f"transformers cannot build this architecture with fewer than {least} blocks"
        raise InputError(f"{config.model_type}, blocks {kept}", what, "choose more blocks")
    sources = kv_sources(config)
    for place, index in enumerate(kept):
        source = sources[index]
        if source is not None and source not in kept[:place]:
            raise InputError(
                f"{config.model_type}, block {index}",
                f"uses what block {source} has computed, which is not among the blocks {kept}",
                f"choose block {source} too, or leave block {index} out",
            )
    ids = getattr(config, "hybrid_layer_ids", None)  # zamba2: one block at several places, an adapter in it for each
    if ids and kept != list(range(len(kept))):
        what = f"hybrid_layer_ids is {ids}, so a block's function depends on its place and blocks {kept} would change"
        raise InputError(title(config), what, "inherit the first blocks (choose: first)")


def check_kv_sources(config: "PretrainedConfig", short: "PretrainedConfig", kept: list[int]) -> None:
    """Raise InputError where a block of `short` would use keys, values or tokens of another block than before."""
    before, after = kv_sources(config), kv_sources(short)
    for place, index in enumerate(kept):
        source, now = before[index], after[place]
        if source is not None and (now is None or kept[now] != source):
            own = "compute its own" if now is None else f"use block {kept[now]}"
            raise InputError(
                f"{config.model_type}, block {index}",
                f"uses what block {source} has computed, and would {own}",
                "choose other blocks, or choose: first",
            )


def check_place(model: "PreTrainedModel", structure: Structure, kept: list[int]) -> None:
    """Raise InputError where the model's code computes with a block's number, or the depth, and these blocks move.

    `model` may be on the meta device: only classes are looked at.
    """
    rescaled = any(vars(module).get("layers_are_rescaled", False) for module in model.modules())
    if rescaled and getattr(model.config, "rescale_every", None):
        what = "the model has run in evaluation mode, which has scaled its weights by their places"
        raise InputError(title(model.config), what, "load it anew")
    harmless = EXAMINED.get(model.config.model_type, ())
    for use in uses_of_place(model, structure.blocks):
        moves = kept != list(range(structure.count if use.of_depth else len(kept)))
        if moves and not any(part in use.text for part in harmless):
            what = "the number of blocks" if use.of_depth else "a block's place"
            raise InputError(
                f"{title(model.config)}, blocks {kept}",
                f"what they compute depends on {what} ({use.text})",
                "take all blocks" if use.of_depth else "inherit the first blocks (choose: first)",
            )


def check_cache(config: "PretrainedConfig", short: "PretrainedConfig") -> None:
    """Raise InputError where a model of `short` could not generate with a cache, though one of `config` can.

    transformers asks the first attention block how long the cached sequence is: of a hybrid, blocks without any
    attention among them cannot be run.
    """
    if _has_cache(config) and not _has_cache(short):
        raise InputError(
            title(config),
            f"a hybrid: none of the {layer_count(short)} blocks chosen has attention, so transformers cannot run them",
            "choose more blocks, or others, so that one with attention is among them",
        )


def _has_cache(config: "PretrainedConfig") -> bool:
    from transformers import DynamicCache

    try:
        DynamicCache(config=config).get_seq_length()
    except ValueError:
        return False
    return True


def differences(source: "nn.Module", target: "nn.Module", settled: Collection[str] = ()) -> list[str]:
    """The differences, weights aside, that make a block compute something else than the block it was copied from.

    Compares the modules' classes, the names and shapes of their tensors, every attribute of plain data, and tensors
    that no checkpoint stores. Attributes that only give the block's place, those named in `settled`, and values on the
    meta device are not compared.
    """
    sources, targets = dict(source.named_modules()), dict(target.named_modules())
    listed = [f"module {name} is in only one of them" for name in sorted(sources.keys() ^ targets.keys())]
    for name in sorted(sources.keys() & targets.keys()):
        left, right = sources[name], targets[name]
        if type(left) is not type(right):
            listed.append(f"{name} is {type(right).__name__}, was {type(left).__name__}")
        for key in sorted(vars(left).keys() & vars(right).keys()):
            if key.startswith("_") or key == "training" or POSITION.match(key) or key in settled:
                continue
            a, b = vars(left)[key], vars(right)[key]
            if _is_plain(a) and _is_plain(b) and not _are_same(a, b):
                listed.append(f"{name}.{key} is {b}, was {a}".lstrip("."))
        for key in sorted(left._non_persistent_buffers_set & right._non_persistent_buffers_set):
            a, b = getattr(left, key), getattr(right, key)
            if a is not None and b is not None and not _are_same_tensors(a, b):
                listed.append(f"{name}.{key} has other values".lstrip("."))
    shapes = {name: tuple(tensor.shape) for name, tensor in source.state_dict().items()}
    for name, tensor in target.state_dict().items():
        if shapes.pop(name, None) != tuple(tensor.shape):
            listed.append(f"{name} has another shape")
    return listed + [f"{name} is missing" for name in shapes]


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, nothing, or a collection of these."""
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(entry) for entry in value)
    if type(value) is dict:  # ordered ones are torch's
        return all(_is_plain(entry) for pair in value.items() for entry in pair)
    return isinstance(value, bool | int | float | str | None)


def _are_same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_NUMBERS_MAY_DIFFER) or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_are_same(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_are_same(a[key], b[key]) for key in a)
    return bool(a == b)


def _are_same_tensors(a: "Tensor", b: "Tensor") -> bool:
    import torch

    if a.shape != b.shape or a.is_meta or b.is_meta:
        return a.shape == b.shape
    return bool(torch.allclose(a.float(), b.float(), rtol=1e-6, atol=0, equal_nan=True))


def tensor_shapes(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    """The shapes of a model's tensors, tied ones under each of their names."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def block_modules(model: "PreTrainedModel") -> "list[torch.nn.Module]":
    """A model's blocks, in order. Raises InputError where there are none (see `find_structure`)."""
    return list(model.get_submodule(find_structure(model).blocks))


def block_matrices(model: "PreTrainedModel") -> frozenset[str]:
    """The names of the two-dimensional weights of a model's blocks."""
    structure = find_structure(model)
    return frozenset(name for name, p in model.named_parameters() if p.dim() == 2 and structure.split(name) is not None)
