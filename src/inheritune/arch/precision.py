"""Changing the floating-point type of a loaded model, including constants that no checkpoint holds."""

from typing import TYPE_CHECKING

from inheritune.arch.building import build_hollow

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


def in_dtype(model: "PreTrainedModel", dtype: "torch.dtype | str") -> "PreTrainedModel":
    """Convert `model` to `dtype` (or its name, such as "float32") in place, and return it.

    The model then computes what it would if transformers had loaded it in `dtype`. `model.to(dtype)` alone fails there:
    it rounds constants that no checkpoint holds (rotary frequencies, the factor on Gemma's embeddings), and it cannot
    undo an earlier rounding. So these buffers get the values that they have in a model built in `dtype`, and tensors
    that transformers keeps in float32 stay in it.
    """
    import torch

    kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    built = build_hollow(type(model), model.config, kind)
    kinds = _dtypes(built, kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(kinds.get(name, kind))
                parameter.grad = None if parameter.grad is None else parameter.grad.to(parameter.dtype)
        fresh = dict(built.named_modules())
        for place, module in model.named_modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.is_floating_point():
                    module._buffers[name] = buffer.to(kinds.get(f"{place}.{name}" if place else name, kind))
            _take_constants(module, fresh.get(place))
    return model


def _dtypes(built: "PreTrainedModel", dtype: "torch.dtype") -> "dict[str, torch.dtype]":
    """The dtypes, by name, of parameters and buffers that transformers would load in `dtype`."""
    from transformers.core_model_loading import build_glob_alternation

    dtypes = {name: tensor.dtype for name, tensor in (*built.named_parameters(), *built.named_buffers())}
    plan = built._get_dtype_plan(dtype)
    if plan:
        kept, pattern_of, _ = build_glob_alternation(list(plan))
        for name in dtypes:
            match = kept.search(name)
            if match is not None:
                dtypes[name] = plan[pattern_of[str(match.lastgroup)]]
    return dtypes


def _take_constants(module: "nn.Module", fresh: "nn.Module | None") -> None:
    """Copy the buffers that checkpoints do not hold from the same module of a new model."""
    for name in module._non_persistent_buffers_set:
        buffer, value = module._buffers.get(name), None if fresh is None else fresh._buffers.get(name)
        if buffer is not None and value is not None and buffer.is_floating_point() and not value.is_meta:
            module._buffers[name] = value.to(buffer.device)
    for name in list(vars(module)):  # the length that dynamic rotary frequencies were last computed for
        if name.endswith("max_seq_len_cached") and hasattr(fresh, name):
            setattr(module, name, getattr(fresh, name))
