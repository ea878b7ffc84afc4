"""Undoing the quantisation of checkpoints. One that cannot be undone is refused before any weight is read.

Blockwise FP8 is undone here, one tensor at a time, because transformers derives a block's size from the number of
factors: where a dimension is no multiple of the block (DeepSeek-V3: 576 rows in blocks of 128) it fails, or spreads the
factors over the wrong rows. transformers undoes all other methods.
"""

import importlib.util
import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inheritune.arch.stored import StoredTensor, StoredWeights
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_LIBRARIES = {"compressed-tensors": "compressed_tensors", "bitsandbytes": "bitsandbytes", "higgs": "flute"}
_BLOCKWISE = ("fp8", "mxfp8")
_FACTORS = re.compile("(qscale_weight|scale)$")


def quantisation(config: "PretrainedConfig") -> dict[str, Any] | None:
    """How a checkpoint was quantised, as its config says; None for a plain one."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    return dict(stored if isinstance(stored, dict) else stored.to_dict())


def check_undoable(config: "PretrainedConfig", place: str) -> None:
    """Raise InputError for a quantisation that cannot be undone, or whose library is not installed."""
    fields = quantisation(config)
    if fields is None:
        return
    method = _method(fields)
    if method not in _BLOCKWISE and _way(method) is None:
        remedy = "give the checkpoint before its quantisation (often the same name without the suffix)"
        raise InputError(place, f"quantised with {method}, which transformers cannot undo", remedy)
    package = _LIBRARIES.get(method.removesuffix("_4bit").removesuffix("_8bit"))
    if package is not None and importlib.util.find_spec(package) is None:
        name = "flute-kernel" if package == "flute" else package.replace("_", "-")
        raise InputError(place, f"quantised with {method}, which needs {name} to be undone", f"pip install {name}")


def forget(config: "PretrainedConfig") -> None:
    """Remove the mark of quantisation from the config of a model whose weights are plain."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config


def is_blockwise(fields: Mapping[str, Any]) -> bool:
    """Whether the weights are FP8 with factors per block (as DeepSeek and Qwen publish them)."""
    return _method(fields) in _BLOCKWISE


def loading_options(config: "PretrainedConfig") -> dict[str, Any]:
    """Options with which transformers undoes the quantisation on loading, where it can."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    fields = quantisation(config)
    if fields is None or _way(_method(fields)) != "on loading":
        return {}
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING[_method(fields)]
    return {"quantization_config": kind.from_dict({**fields, "dequantize": True})}


def make_plain(model: "PreTrainedModel", fields: Mapping[str, Any]) -> "PreTrainedModel":
    """Undo what is left of the quantisation `fields` of a loaded model, and remove all marks of it.

    transformers refuses to save a model with the mark, and would otherwise quantise it again.
    """
    import torch

    if _way(_method(fields)) == "after loading":
        model = model.dequantize(model.dtype if model.dtype.is_floating_point else torch.bfloat16)
    for name in ("hf_quantizer", "quantization_method", "_weight_conversions"):
        if hasattr(model, name):
            delattr(model, name)
    forget(model.config)
    model.is_quantized = False
    return model


def _method(fields: Mapping[str, Any]) -> str:
    if fields.get("load_in_4bit") or fields.get("load_in_8bit"):
        return "bitsandbytes_4bit" if fields.get("load_in_4bit") else "bitsandbytes_8bit"
    method = fields.get("quant_method")
    return str(getattr(method, "value", method))


def _way(method: str) -> str | None:
    """When transformers undoes a method: on loading, after loading, or (None) not at all."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.base import HfQuantizer

    kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
    if kind is None:
        return None
    if "dequantize" in inspect.signature(kind).parameters:
        return "on loading"
    return "after loading" if AUTO_QUANTIZER_MAPPING[method]._dequantize is not HfQuantizer._dequantize else None


def without_factors(weights: StoredWeights, fields: Mapping[str, Any], dtype: str) -> StoredWeights:
    """Blockwise FP8 weights as plain ones of `dtype` (in safetensors' words), which are computed when they are read.

    Raises InputError, naming the tensor, for one without factors or with the wrong number of them.
    """
    block = fields.get("weight_block_size") or fields.get("block_size")
    factors_of = {scaled_name(name): tensor for name, tensor in weights.tensors.items() if scaled_name(name) != name}
    plain: dict[str, StoredTensor] = {}
    for name, tensor in weights.tensors.items():
        owner, is_fp8 = weights.tensors.get(scaled_name(name)), tensor.dtype.startswith("F8_")
        is_factors = owner is not None and owner is not tensor and owner.dtype.startswith("F8_")
        if is_factors or name.endswith("activation_scale"):
            continue
        factors = factors_of.get(name) if is_fp8 else None
        if factors is not None:
            size, count = _block(tensor, factors, block), tensor.bytes * (4 if dtype == "F32" else 2)
            tensor = replace(tensor, dtype=dtype, bytes=count, factors=factors, block=size)
        elif is_fp8 and not name.endswith(("scale_inv", ".scale")):
            raise InputError(f"{tensor.file}: {name}", f"is {tensor.dtype} and has no factors", "get the file again")
        plain[name] = tensor
    return replace(weights, tensors=plain)


def scaled_name(name: str) -> str:
    """The tensor whose factors have this name (DeepSeek-V3 and V4, Qwen, Mistral); else no tensor."""
    return name.removesuffix("_scale_inv") if name.endswith("_scale_inv") else _FACTORS.sub("weight", name)


def _block(tensor: StoredTensor, factors: StoredTensor, block: Any) -> tuple[int, int] | None:
    """Rows and columns that share a factor; None for one factor in all. Raises InputError where neither fits."""
    if all(length == 1 for length in factors.shape):
        return None
    if block is not None and len(factors.shape) == len(tensor.shape) >= 2:
        legal = tuple(-(-length // int(size)) for length, size in zip(tensor.shape[-2:], block, strict=False))
        if factors.shape == (*tensor.shape[:-2], *legal):
            return int(block[0]), int(block[1])
    what = f"{factors.shape} factors for a tensor of {tensor.shape}, in blocks of {block}"
    raise InputError(f"{factors.file}: {factors.name}", what, "get a checkpoint whose weights fit its config")
