"""The tensors of a .gguf file: each must have a place in the model, as transformers ignores those without one."""

import copy
import re
from typing import TYPE_CHECKING, Any

from inheritune.arch.gguf_header import REMEDY, ROPE_TENSORS, GgufHeader
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_HARMLESS = re.compile(r"blk\.\d+\.attn_rot_embd\.weight")
"""Rotary frequencies of each block, which early converters wrote: they follow from the base."""


def whole_architectures() -> frozenset[str]:
    """The architectures of which transformers' loader takes every tensor, or reports it as unexpected."""
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    except ImportError:  # an older version
        return frozenset()
    return frozenset(GGUF_CONFIG_ARCHS)


def with_all_tensors(config: "PretrainedConfig", header: GgufHeader) -> "PretrainedConfig":
    """`config` with the switches on that make room for the file's tensors (biases, norms of queries and keys).

    Raises InputError, naming the tensor, for one that has no place in the model.
    """
    if header.architecture in whole_architectures():
        return config
    if config.tie_word_embeddings and not header.output_is_embedding:
        config.tie_word_embeddings = False
    left = _left(config, header)
    for name, usual in type(config)().to_dict().items() if left else ():
        is_off = isinstance(usual, bool) and getattr(config, name) is False
        if not is_off or not re.search("bias|norm", name):
            continue
        tried = type(config).from_dict(config.to_dict() | {name: True})
        fewer = _left(tried, header)
        if len(fewer) < len(left):
            config, left = tried, fewer
    if left:
        what = f"transformers' {config.model_type} has no place for it, so it would be ignored"
        more = f" (and {len(left) - 1} more tensors)" if len(left) > 1 else ""
        raise InputError(f"{header.place}: {left[0]}", what + more, REMEDY)
    return config


def may_lack_biases(config: "PretrainedConfig") -> bool:
    """Whether biases were switched on because a file has some: one that it lacks is then zero, as for llama.cpp."""
    usual = type(config)().to_dict()
    return any(getattr(config, name) and not usual[name] for name in usual if name.endswith("bias"))


def zero_biases(model: "PreTrainedModel", names: set[str]) -> set[str]:
    """Set those of the model's tensors `names` that are biases to zero; returns their names."""
    import torch

    biases, tensors = {name for name in names if name.endswith(".bias")}, model.state_dict()
    with torch.no_grad():
        for name in biases:
            tensors[name].zero_()
    return biases


def _left(config: "PretrainedConfig", header: GgufHeader) -> list[str]:
    """The file's tensors that fill nothing in a model of `config`."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=config.to_dict())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config))
    names = [name for name in header.shapes if name not in ROPE_TENSORS and not _HARMLESS.fullmatch(name)]
    for one in (_Outline(model), model):  # the model itself takes seconds, and is what transformers asks
        places = set(get_gguf_hf_weights_map(one, processor))
        names = [name for name in names if not _is_placed(name, places)]
        if not names:
            break
    return names


def _is_placed(name: str, places: set[str]) -> bool:
    """Whether a tensor is in `places`, the names of the model's tensors in llama.cpp's terms."""
    if name == "output.weight" and "position_embd.weight" in places:  # GPT-2: the loader fills the head itself
        return True
    return name in places or (name.endswith("_exps.weight") and name.removesuffix(".weight") in places)


class _Outline:
    """The names in a model and in the part of it without the head, which are enough for most architectures."""

    def __init__(self, model: "PreTrainedModel", inner: bool = True) -> None:
        self.config, self._model, self._inner = model.config, model, inner

    def state_dict(self) -> dict[str, Any]:
        return dict(self._model.state_dict())

    def named_children(self) -> "list[tuple[str, _Outline]]":
        prefix = self._model.base_model_prefix
        inner = getattr(self._model, prefix, None) if self._inner else None
        return [] if inner is None else [(prefix, _Outline(inner, inner=False))]
