"""Whether a narrower model computes what its source computes without the rest, and the rescaling that it takes.

What depends on a width in another way than through tensors is found by comparing the two models without weights: norms
over what goes, factors that follow from a width, frequencies of rotary embeddings. A table has what neither shows.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inheritune.arch.families import Rescale, title
from inheritune.arch.head_size import check_head_size
from inheritune.arch.roles import tensor_roles
from inheritune.arch.selection import Selection
from inheritune.arch.slopes import check_slopes
from inheritune.arch.stated import stated
from inheritune.arch.structure import find_structure
from inheritune.arch.width import axis_of, kept_widths, kind, widths
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_REMEDY = "keep all of them in this architecture"
_SCALE = re.compile(r"scal|norm_factor")
_QUERIES = re.compile(r"\.(q_proj|project_q)(\.linear)?\.(weight|bias)$")
_FUSED_QUERIES = re.compile(r"(attn|attention)\.qkv_proj\.(weight|bias)$")  # queries come first
_EXPERTS_OUT = re.compile(r"experts\.(down_proj|output_linear)")
_FUSED_EXPERTS = 8  # grouped matrix products take widths in multiples of 16 bytes


@dataclass(frozen=True)
class _Case:
    """Axes of which an architecture cannot lose a part, the reason, and for which of its configs that holds."""

    axes: tuple[str, ...]
    reason: str
    holds: Callable[[Any, set[str]], bool] = lambda config, cut: True


_ROOT = "it scales embeddings by the root of the hidden size"
_SQUARE = _Case(("heads", "head size", "hidden"), "its code takes the hidden size for that of all heads together")
_CASES: dict[str, tuple[_Case, ...]] = {
    "afmoe": (_Case(("hidden",), _ROOT, lambda config, _: config.mup_enabled),),
    "big_bird": (_Case(("hidden",), _ROOT, lambda config, _: config.rescale_embeddings),),
    "bitnet": (_SQUARE,),
    "ctrl": (_Case(("hidden",), _ROOT),),
    "deepseek_v4": (_Case(("experts",), "a table of its first blocks sends tokens to experts by their numbers"),),
    "gemma3n_text": (
        _Case(("hidden",), "it scales hidden states by their magnitude over all channels"),
        _Case(
            ("mlp",),
            "it chooses active neurons by the mean and deviation of all",
            lambda config, _: any(config.activation_sparsity_pattern),
        ),
    ),
    "helium": (_SQUARE,),
    "inkling2_text": (_Case(("hidden",), "it attends to blocks with a scale that follows from the hidden size"),),
    "mimo_v2_flash": (
        _Case(
            ("heads",),
            "some blocks have twice as many key and value heads; select whole groups",
            lambda _, cut: "kv heads" not in cut,
        ),
    ),
    "minicpm3": (_Case(("hidden",), "it divides hidden states by hidden_size / dim_model_base before its head"),),
    "olmoe": (_Case(("heads", "hidden"), "it normalises the queries and the keys of all heads together"),),
}  # fmt: skip


def compensations(source: "PreTrainedModel", target: "PreTrainedModel", selection: Selection) -> dict[str, Rescale]:
    """What the tensors of `target` are multiplied by, so that it computes what `source` does without the rest.

    Without the rest means: other heads give zero, other neurons too, no token goes to other experts; hidden channels
    that go are zero everywhere, and norms are computed over those that stay. Both models may be on the meta device;
    tensors have the target's names, and slices are the target's.

    Raises InputError where no factor makes it so, or where transformers could not run the target.
    """
    config = stated(source.config, selection)
    fields = widths(config)
    each = [kept_widths(config, selection.of_block(place)) for place in range(selection.blocks or 1)]
    cut = {kind(axis_of(fields, path)) for path, runs in each[0].items() if runs != ((0, fields[path]),)}
    for case in _CASES.get(config.model_type, ()):
        axis = next((axis for axis in case.axes if axis in cut), None)
        if axis is not None and case.holds(config, cut):
            what = f"{config.model_type} cannot lose {_WORDS[axis]} and compute the same: {case.reason}"
            raise InputError(title(config), what, _REMEDY)
    if "heads" in cut:
        for kept in each:
            check_slopes(config, fields, kept)
    _check_tables(source, target)
    _check_fused_experts(source, target)
    if "head size" in cut:
        sizes = next(runs for path, runs in each[0].items() if axis_of(fields, path) == "head size")
        _check_norms_of_heads(source)
        check_head_size(source, tuple(index for start, stop in sizes for index in range(start, stop)))
    return _rescales(source, target, "head size" in cut)


_WORDS = {
    "heads": "heads", "kv heads": "heads", "mlp": "neurons", "head size": "dimensions of heads",
    "hidden": "hidden channels", "experts": "experts",
}  # fmt: skip


def check_norm(name: str, axes: set[str], config: "PretrainedConfig") -> None:
    """Raise InputError where `axes`, of which a part goes, are those that the norm with the tensor `name` is over."""
    axis = next((axis for axis in _WORDS if axis in axes - {"hidden", "experts"}), None)
    if axis is not None:
        what = f"{name} belongs to a norm over all {_WORDS[axis]}, so the rest would be normalised otherwise"
        raise InputError(title(config), what, _REMEDY)


def _check_tables(source: "PreTrainedModel", target: "PreTrainedModel") -> None:
    """Raise InputError for tables that a module computes from a width, such as sines of positions."""
    modules = dict(source.named_modules())
    for name, module in target.named_modules():
        for key, new in module.named_buffers(recurse=False):
            old = dict(modules[name].named_buffers(recurse=False)).get(key)
            computed = key in module._non_persistent_buffers_set and "inv_freq" not in key
            if computed and old is not None and old.shape != new.shape:
                what = f"{name}.{key} is computed from the width, so that it would have other values"
                raise InputError(title(source.config), what, _REMEDY)


def _check_norms_of_heads(source: "PreTrainedModel") -> None:
    """Raise InputError for norms without weights inside attention: those are over the dimensions of a head."""
    structure = find_structure(source)
    for name, module in source.named_modules():
        inside = re.search(r"attn|attention", name.rpartition(".")[0]) and name.startswith(structure.blocks)
        if inside and "Norm" in type(module).__name__ and not list(module.parameters()):
            what = f"{name} normalises the dimensions of each head, so the rest would be normalised otherwise"
            raise InputError(title(source.config), what, "keep the size of its heads")


def _check_fused_experts(source: "PreTrainedModel", target: "PreTrainedModel") -> None:
    """Raise InputError for experts whose width transformers' grouped matrix products do not take."""
    before = dict(source.named_parameters())
    for name, tensor in target.named_parameters():
        if tensor.ndim != 3 or name not in before or not _EXPERTS_OUT.search(name):
            continue
        for old, new in zip(before[name].shape[1:], tensor.shape[1:], strict=True):
            if new != old and new % _FUSED_EXPERTS and not old % _FUSED_EXPERTS:
                less = new // _FUSED_EXPERTS * _FUSED_EXPERTS
                near = [str(size) for size in (less, less + _FUSED_EXPERTS) if 0 < size <= old]
                what = f"{name} would be {new} wide, and products of experts take multiples of {_FUSED_EXPERTS}"
                raise InputError(title(source.config), what, f"choose {' or '.join(near)}")


def _rescales(source: "PreTrainedModel", target: "PreTrainedModel", smaller_heads: bool) -> dict[str, Rescale]:
    """The factors that make up for numbers in modules that follow from a width.

    Raises InputError for numbers that nothing makes up for.
    """
    config, result = source.config, dict[str, Rescale]()
    blocks = find_structure(target)
    modules, scaled = dict(source.named_modules()), set[str]()
    for name, module in target.named_modules():
        for key, new in vars(module).items():
            old = vars(modules[name]).get(key)
            if not isinstance(new, float) or not isinstance(old, float):
                continue
            attends = smaller_heads and _SCALE.search(key) is not None and blocks.split(name + ".") is not None
            if attends:
                scaled.add(name)
            if math.isclose(old, new, rel_tol=1e-9):
                continue
            if attends:
                result |= _of_queries(target, name, old / new)
            elif module is target.get_input_embeddings() and "scale" in key:
                result |= _of_embeddings(target, name, old / new)
            else:
                what = f"{name}.{key} follows from the width: it would be {new:.4g} and was {old:.4g}"
                raise InputError(title(config), what, _REMEDY)
    if smaller_heads and not scaled:
        what = "its code does not show by what attention scores are divided"
        raise InputError(title(config), what, "keep the size of its heads")
    return result


def _of_queries(target: "PreTrainedModel", attention: str, factor: float) -> dict[str, Rescale]:
    """The tensors of an attention module that make its queries, with the factor of the scale that changes."""
    config, found = target.config, dict[str, Rescale]()
    fields = widths(config)
    sizes = {axis_of(fields, path): value for path, value in fields.items()}
    if getattr(config, "clip_qkv", None) is not None:
        what = "it clips queries (clip_qkv) before it scales them"
        raise InputError(title(config), what, "keep the size of its heads")
    for name, tensor in target.state_dict().items():
        inside = name.removeprefix(attention)
        if name.startswith(attention + ".") and _QUERIES.search(inside):
            found[name] = Rescale(name, 0, 0, tensor.shape[0], factor)
        elif name.startswith(attention + ".") and _FUSED_QUERIES.search(name):
            found[name] = Rescale(name, 0, 0, sizes["heads"] * sizes["head size"], factor)
    if not found:
        what = f"the scale of {attention} follows from the size of its heads, and no tensor makes queries alone"
        raise InputError(title(config), what, "keep the size of its heads")
    return found


def _of_embeddings(target: "PreTrainedModel", embedding: str, factor: float) -> dict[str, Rescale]:
    """The embeddings with a factor; where the head is tied to them, the norm before it with its reciprocal."""
    name = f"{embedding}.weight"
    found = {name: Rescale(name, 0, 0, target.get_parameter(name).shape[0], factor)}
    if name in getattr(target, "all_tied_weights_keys", {}).values():
        for norm, role in tensor_roles(target, find_structure(target)).items():
            if role == "final_norm":
                tensor = target.state_dict()[norm]
                offset = _gain_offset(target, norm) if norm.endswith(".weight") else 0.0
                found[norm] = Rescale(norm, 0, 0, tensor.shape[0], 1 / factor, offset)
    return found


def _gain_offset(target: "PreTrainedModel", norm: str) -> float:
    """What a norm adds to its weight to get its gain: 1 in Gemma, else 0."""
    import copy

    import torch

    module = copy.deepcopy(target.get_submodule(norm.rpartition(".")[0])).to_empty(device="cpu").float()
    given = torch.randn(1, 1, module.get_parameter("weight").shape[0], device="cpu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        return 1.0 if module(given).any() else 0.0
