"""Quantised checkpoints: which of them can be made plain again, and how. What cannot is refused before any reading.

Blockwise FP8 is undone here, tensor by tensor as they are asked for, because transformers' own way takes a block's size
from the number of factors: where a dimension is no multiple of the block (DeepSeek-V3: 576 rows in blocks of 128) it
fails, or spreads the factors over the wrong rows. All other methods are undone by transformers.
"""

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from inheritune.arch.stored import Factors, StoredTensor, StoredWeights
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_LIBRARIES = {"compressed-tensors": "compressed_tensors", "bitsandbytes": "bitsandbytes", "higgs": "flute"}
_BLOCKWISE = ("fp8", "mxfp8")
_UNDO = "give the checkpoint before its quantisation (often the same name without the suffix)"


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
    if method in _BLOCKWISE or _way(method) is not None:
        package = _LIBRARIES.get(method.removesuffix("_4bit").removesuffix("_8bit"))
        if package is not None and importlib.util.find_spec(package) is None:
            name = "flute-kernel" if package == "flute" else package.replace("_", "-")
            raise InputError(place, f"quantised with {method}, which needs {name} to be undone", f"pip install {name}")
        return
    raise InputError(place, f"quantised with {method}, which transformers cannot undo", _UNDO)


def forget(config: "PretrainedConfig") -> None:
    """Take the mark of quantisation off the config of a model whose weights are plain."""
    if hasattr(config, "quantization_config"):
        del config.quantization_config


def is_blockwise(fields: Mapping[str, Any]) -> bool:
    """Whether the weights are FP8 with factors per block (as DeepSeek and Qwen publish them)."""
    return _method(fields) in _BLOCKWISE


def loading_options(config: "PretrainedConfig") -> dict[str, Any]:
    """What tells transformers to undo the quantisation on loading, where it can do so then."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    fields = quantisation(config)
    if fields is None or _way(_method(fields)) != "on loading":
        return {}
    kind = AUTO_QUANTIZATION_CONFIG_MAPPING[_method(fields)]
    return {"quantization_config": kind.from_dict({**fields, "dequantize": True})}


def make_plain(model: "PreTrainedModel", fields: Mapping[str, Any]) -> "PreTrainedModel":
    """A model loaded from a checkpoint quantised by `fields`: with floats alone, and without the mark of it.

    transformers refuses to save a model with the mark, and with the way it was loaded would quantise it again.
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
    """Blockwise FP8 weights as plain ones of `dtype` (as safetensors writes it), which are computed when they are read.

    Raises InputError, naming the tensor, for one without factors or with a number of them that does not fit.
    """
    block = fields.get("weight_block_size") or fields.get("block_size")
    used: set[str] = set()
    plain: dict[str, StoredTensor] = {}
    for name, tensor in weights.tensors.items():
        factors = next((weights.tensors[other] for other in _factor_names(name) if other in weights.tensors), None)
        if tensor.dtype.startswith("F8_") and factors is None and not name.endswith(("scale_inv", ".scale")):
            raise InputError(f"{tensor.file}: {name}", f"is {tensor.dtype} and has no factors", "get the file again")
        if factors is None or not tensor.dtype.startswith("F8_"):
            plain[name] = tensor
            continue
        used.add(factors.name)
        size = _block(tensor, factors, block)
        count = tensor.bytes * (4 if dtype == "F32" else 2)
        plain[name] = replace(tensor, dtype=dtype, bytes=count, factors=Factors(factors, size))
    left = {
        name: tensor for name, tensor in plain.items() if name not in used and not name.endswith("activation_scale")
    }
    return replace(weights, tensors=left)


def with_factors(needed: Callable[[list[str]], set[str]]) -> Callable[[list[str]], set[str]]:
    """`needed`, and the factors of what is needed."""

    def wider(stored: list[str]) -> set[str]:
        wanted = needed(stored)
        return wanted | {factors for name in wanted for factors in _factor_names(name) if factors in stored}

    return wider


def _factor_names(name: str) -> tuple[str, ...]:
    """The names that the factors of a tensor may have: DeepSeek-V3 and Qwen, DeepSeek-V4, Mistral."""
    stem = name.removesuffix("weight")
    return (f"{name}_scale_inv", f"{stem}scale", f"{stem}qscale_weight") if stem != name else (f"{name}_scale_inv",)


def _block(tensor: StoredTensor, factors: StoredTensor, block: Any) -> tuple[int, int] | None:
    """Rows and columns that share a factor; None where all of the tensor does. Raises InputError where neither fits."""
    if all(length == 1 for length in factors.shape):
        return None
    if block is not None and len(factors.shape) == len(tensor.shape) >= 2:
        legal = tuple(-(-length // int(size)) for length, size in zip(tensor.shape[-2:], block, strict=False))
        if factors.shape == (*tensor.shape[:-2], *legal):
            return int(block[0]), int(block[1])
    what = f"{factors.shape} factors for a tensor of {tensor.shape}, in blocks of {block}"
    raise InputError(f"{factors.file}: {factors.name}", what, "get a checkpoint whose weights fit its config")
