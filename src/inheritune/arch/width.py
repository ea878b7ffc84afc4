"""Half width: the config of a model half as wide, and which part of each of the reference's tensors it takes.

A baseline of "Inheritune" (arXiv 2404.08634, table 5): all blocks, the first half of the heads, half the hidden size
and half the MLP units. How a tensor's dimension depends on the config is found by building the model without memory
with one width at a time doubled, never by comparing numbers: 3 x hidden and an MLP of the same size are told apart.
Only where several parts lie behind each other in one dimension must a table say in which order.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from inheritune.errors import BUILD_ERRORS, InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_REMEDY = "use another start than half width for this architecture"

# Half-open index ranges of a source tensor along one dimension; laid end to end they are the target's dimension.
Ranges = tuple[tuple[int, int], ...]

_Path = tuple[str | int, ...]

# What config fields mean. Attention of several kinds in one model has heads of its own: an axis for each kind.
_AXES: dict[str, tuple[str, ...]] = {
    "heads": (
        "num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads", "decoder_attention_heads",
        "num_attention_heads_per_layer",
    ),
    "kv heads": ("num_key_value_heads", "num_kv_heads", "kv_n_heads"),
    "swa heads": ("swa_num_attention_heads",),
    "swa kv heads": ("swa_num_key_value_heads",),
    "linear heads": ("linear_num_value_heads", "linear_num_heads"),
    "linear kv heads": ("linear_num_key_heads",),
    "hidden": ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size"),
}  # fmt: skip
_MLP_WIDTHS = {
    "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dim_ff", "dff", "d_inner", "decoder_ffn_dim",
    "moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size", "intermediate_size_mlp",
    "shared_experts_intermediate_size", "expert_ffn_hidden_size", "dense_intermediate_size",
    "prefix_dense_intermediate_size", "moe_shared_expert_intermediate_size", "feed_forward_size",
}  # fmt: skip
_AXIS = {name: axis for axis, names in _AXES.items() for name in names} | {name: name for name in _MLP_WIDTHS}
_NESTED = {"attn_config", "ffn_config", "per_layer_config"}
_HEAD_SIZE = r"head_dim|dim_head|d_head|kv_channels|attention_head_size"

# Widths of other kinds: nothing says what half of them is.
_NOT_HEADS = re.compile(r"^(mamba_|ssm_|state_size$|lru_width$|time_step_rank$)")
_REFUSED: dict[str, str | None] = {
    "deepseek_v4": "its heads are projected in groups, whose number is not a width",
    "diffllama": "its attention subtracts the second half of the heads from the first",
    "moshi": "it has an MLP whose width is half of what its config says",
    "rwkv": "its blocks have no attention heads",
    "xlstm": "its blocks have no attention heads",
}

# Tensors in which several parts share a dimension, by the end of their name and the model type. A part is the kind of
# width that it follows. (): what is halved comes in one run from the start, unit after unit, head after head or group
# after group, and what is not halved (the one key and value that all heads share) stands behind it.
_RUN: tuple[str, ...] = ()
_QKV, _KVQ = ("heads", "kv heads", "kv heads"), ("kv heads", "kv heads", "heads")
_EACH = ("...",)  # as many parts as there are experts or streams
_QUARTERS = ("quarters",)
_LAYOUTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"qkv_proj", "codegen", _QUARTERS),
    (r"qkv_proj", "minimax", _RUN),  # q, k, v of a head, then the next head
    (r"gate_up_proj(_bias)?", "gpt_oss", _RUN),  # gate and up of a unit, then the next unit
    (r"query_key_value|in_proj_qkvz|in_proj_ba", "", _RUN),  # the queries, key and value of a group, then the next
    (r"c_attn", "gpt_bigcode", _RUN),
    (r"c_attn|Wqkv|qkv_proj", "", _QKV),
    (r"kv_proj", "jetmoe", ("kv heads", "kv heads")),
    (r"in_proj_qkv|(linear|self)_attn\.conv1d", "", _KVQ),
    (r"conv\.(in_proj)", "", ("hidden", "hidden", "hidden")),
    (r"gate_up_proj(_bias)?|input_linear|Wi", "", ("mlp", "mlp")),
    (r"experts\.mlp\.[vw][12]", "dbrx", _EACH),
    (r"(attn_hc|ffn_hc|hc_head)\.\w+(\.norm)?", "", _EACH),
    (r"[qkvr]_proj|q_b_proj|kv_b_proj|q_gate_proj", "", _RUN),  # a head has its gate, or key and value, in it
    (r"(gate|up|down)_proj|dense_(h_to_4h|4h_to_h)|(mlp|ffn)\.(c_fc|c_proj|fc_in|fc_out)|fc[12]", "", _RUN),
)  # fmt: skip


def halve(config: "PretrainedConfig") -> "PretrainedConfig":
    """The config of the half-width model: as many blocks, half the heads, half the hidden size and MLP width.

    Numbers are rounded down; of grouped queries whole groups stay, so that each key and value head keeps as many
    query heads (with a single one for all, half of the query heads stay). The size of a head does not change: where
    it is derived from the hidden size, or the hidden size must be a multiple of the heads, the hidden size follows the
    heads (25 heads of 64 become 12, and 1600 becomes 768). No other field changes.

    Raises InputError where half the width has no meaning or nothing would be left. Source: arXiv 2404.08634, table 5.
    """
    fields = _fields(config.to_dict())
    _check_kind(config, fields)
    new = {path: _half(config, fields, path) for path in fields}
    heads, hidden = _main(fields, "heads"), _main(fields, "hidden")
    if _derives_head_size(config) or (fields[hidden] % fields[heads] == 0 and new[hidden] % new[heads]):
        new |= {path: _by_heads(fields) * new[heads] for path in fields if _axis_of(fields, path) == "hidden"}
    return _with(config, new)


def kept_ranges(source: "PreTrainedModel", target: "PreTrainedModel") -> dict[str, tuple[Ranges, ...]]:
    """For every tensor of `target`, a half-width model of `source`: which part of the source's tensor it takes.

    Both may be on the meta device; `target.config` is `halve(source.config)`, so both have the same blocks. The result
    has, for each name in `target.state_dict()`, the ranges of each dimension: indices into the source's dimension, in
    the order in which they make the target's. Ranges of a dimension do not overlap.

    Raises InputError for a tensor whose parts are not known, and where the models do not belong together.
    """
    config = source.config
    fields, after = _fields(config.to_dict()), _fields(target.config.to_dict())
    if fields.keys() != after.keys():
        raise InputError(_title(config), "the two models have different kinds of widths", "give halve's config")
    pairs: dict[str, list[tuple[int, int]]] = {}
    for path, value in fields.items():
        pairs.setdefault(_axis_of(fields, path), []).append((value, after[path]))
    shapes, targets, forms = _shapes(source), _shapes(target), _forms(source, fields)
    result: dict[str, tuple[Ranges, ...]] = {}
    for name, shape in targets.items():
        if len(shapes.get(name, ())) != len(shape) or name not in forms:
            raise InputError(_title(config), f"{name} is in only one of the two models", "give halve's config")
        dimensions = []
        for place, form in enumerate(forms[name]):
            found = _ranges(name, form, (shapes[name][place], shape[place]), pairs, config)
            if found is None:
                what = f"what dimension {place} ({shapes[name][place]}, {form}) is made of is not known"
                raise InputError(_title(config), f"{name}: {what}", _REMEDY)
            dimensions.append(found)
        result[name] = tuple(dimensions)
    return result


@dataclass(frozen=True)
class _Form:
    """What a dimension is: a fixed part, and for each axis how many indices each unit of its width adds."""

    fixed: int
    each: dict[str, int]

    def __str__(self) -> str:
        terms = [f"{count} x {axis}" for axis, count in self.each.items()]
        return " + ".join(terms + [str(self.fixed)] * bool(self.fixed or not terms))

    def size(self, widths: dict[str, int]) -> int:
        """The dimension at these widths."""
        return self.fixed + sum(count * widths[axis] for axis, count in self.each.items())


def _ranges(
    name: str, form: _Form, sizes: tuple[int, int], pairs: dict[str, list[tuple[int, int]]], config: "PretrainedConfig"
) -> Ranges | None:
    """What a target dimension takes of a source dimension of that form; None where it is not known."""
    if not form.each:
        return ((0, sizes[0]),) if sizes[0] == sizes[1] else None
    for chosen in product(*(pairs[axis] for axis in form.each)):  # an axis may have other widths in other blocks
        before = {axis: pair[0] for axis, pair in zip(form.each, chosen, strict=True)}
        after = {axis: pair[1] for axis, pair in zip(form.each, chosen, strict=True)}
        if (form.size(before), form.size(after)) == sizes:
            break
    else:
        return None
    layout = None if _is_hidden(form, config) else _layout(name, config.model_type)
    if layout == _QUARTERS:
        return _quarters(before["heads"], after["heads"], sizes[0] // before["heads"] // 3)
    parts = None if layout is None else _parts(layout, form, before, after)
    if parts is not None:
        return _joined(parts)
    return ((0, sizes[1]),) if _is_plain(form, config) else None


def _parts(
    layout: tuple[str, ...], form: _Form, before: dict[str, int], after: dict[str, int]
) -> list[tuple[int, int]] | None:
    """The sizes, before and after, of the parts that lie behind each other in a dimension."""
    if layout == _RUN:
        moving = _Form(0, {axis: count for axis, count in form.each.items() if before[axis] != after[axis]})
        fixed = form.size(before) - moving.size(before)
        if (fixed or len(form.each) > 1) and not all("heads" in axis for axis in form.each):
            return None
        return [(moving.size(before), moving.size(after)), (fixed, fixed)]
    if len(form.each) == 1 and not form.fixed and layout == _EACH:
        ((sole, count),) = form.each.items()
        return [(before[sole], after[sole])] * count
    own = {_kind(axis): axis for axis in form.each}
    other = None if form.fixed else own.get("heads", own.get("hidden"))  # where the heads are the hidden size
    chosen = [own.get(part, None if part == "mlp" else other) for part in layout]
    parts: list[tuple[int, int]] = []
    for axis in chosen:
        each, rest = divmod(form.fixed if axis is None else form.each[axis], chosen.count(axis))
        if rest or not each:
            return None
        parts.append((each, each) if axis is None else (each * before[axis], each * after[axis]))
    return parts if set(form.each) <= set(chosen) else None


def _joined(parts: list[tuple[int, int]]) -> Ranges:
    """The first so many indices of each part, neighbours put together."""
    ranges, start = list[tuple[int, int]](), 0
    for size, kept in parts:
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], start + kept)
        elif kept:
            ranges.append((start, start + kept))
        start += size
    return tuple(ranges)


def _quarters(heads: int, kept: int, size: int) -> Ranges | None:
    """CodeGen's: four blocks (it was trained on four devices), in each the queries, values, keys of its heads."""
    if heads % 4 or kept % 4:
        return None
    ranges: list[tuple[int, int]] = []
    for block, part in product(range(4), range(3)):
        for head in range(block * kept // 4, (block + 1) * kept // 4):
            home, place = divmod(head, heads // 4)
            start = ((home * 3 + part) * (heads // 4) + place) * size
            ranges.append((start, start + size))
    return tuple(ranges)


def _layout(name: str, model_type: str) -> tuple[str, ...] | None:
    module = re.sub(r"\.(weight|bias)$", "", name)
    for pattern, only, layout in _LAYOUTS:
        if only in ("", model_type) and re.search(rf"(^|\.)({pattern})$", module):
            return layout
    return None


def _is_hidden(form: _Form, config: "PretrainedConfig") -> bool:
    """Whether a dimension is that of the hidden states, on the other side of a tensor whatever its parts are."""
    size = _by_heads(_fields(config.to_dict())) if _derives_head_size(config) else 0
    return not form.fixed and form.each in ({"hidden": 1}, {"heads": size})


def _is_plain(form: _Form, config: "PretrainedConfig") -> bool:
    """Whether a dimension has one index a unit of one width, or one vector a head."""
    if form.fixed or len(form.each) != 1:
        return False
    ((axis, count),) = form.each.items()
    if count == 1 or "heads" not in axis:
        return count == 1
    values = config.to_dict()
    sizes = {
        value for path, value in _walk(values) if re.fullmatch(rf"(v_|swa_|linear_.*)?({_HEAD_SIZE})", _name(path))
    }
    return count in sizes | {_by_heads(_fields(values))}


def _forms(source: "PreTrainedModel", fields: dict[_Path, int]) -> dict[str, tuple[_Form, ...]]:
    """How each dimension of each tensor depends on the widths: models of other widths, one axis doubled at a time."""
    config = source.config
    derived = _derives_head_size(config)
    sizes = {"heads": 48, "kv heads": 8, "hidden": 672, "mlp": 160}
    base = {axis: sizes[_kind(axis)] for axis in (_axis_of(fields, path) for path in fields)}
    base |= {"embedding": 104} if "embedding" in base else {}  # as in the source, not the hidden size
    if derived:
        base["hidden"] = 48 * _by_heads(fields)

    def built(widths: dict[str, int]) -> dict[str, tuple[int, ...]]:
        return _skeleton(source, _with(config, {path: widths[_axis_of(fields, path)] for path in fields}))

    first = built(base)
    changed = {}
    for axis in base:
        if not (derived and axis == "hidden"):
            more = {axis: 2 * base[axis]} | ({"hidden": 2 * base["hidden"]} if derived and axis == "heads" else {})
            changed[axis] = built(base | more)
    forms = {}
    for name, shape in first.items():
        dimensions = []
        for number, size in enumerate(shape):
            grown = {axis: shapes[name][number] - size for axis, shapes in changed.items() if name in shapes}
            each = {axis: growth // base[axis] for axis, growth in grown.items() if growth}
            dimensions.append(_Form(size - sum(grown.values()), each))
        forms[name] = tuple(dimensions)
    return forms


def _skeleton(source: "PreTrainedModel", config: "PretrainedConfig") -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a model of the source's class."""
    import torch
    from transformers.initialization import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            return _shapes(type(source)(config))
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError, KeyError, AttributeError, AssertionError) as error:
        what = f"a {source.config.model_type} of another width cannot be built: {error}"
        raise InputError(_title(source.config), what, _REMEDY) from None


def _shapes(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_kind(config: "PretrainedConfig", fields: dict[_Path, int]) -> None:
    """Raise InputError where half of such a model has no meaning."""
    reason = _REFUSED.get(config.model_type)
    other = [name for name, value in config.to_dict().items() if _NOT_HEADS.match(name) and value]
    if reason is None and other:
        reason = f"its blocks have widths that are neither heads nor MLP ({', '.join(other)})"
    if reason is None and getattr(config, "block_auto_adjust_ff_dim", False):
        reason = "its MLP is not as wide as its config says (block_auto_adjust_ff_dim)"
    for axis, name in (("heads", "number of heads"), ("hidden", "hidden size")):
        if reason is None and not any((field,) in fields for field in _AXES[axis]):
            reason = f"its config has no {name} of a known name"
    if reason is not None:
        raise InputError(_title(config), f"{config.model_type} has no half width: {reason}", _REMEDY)


def _half(config: "PretrainedConfig", fields: dict[_Path, int], path: _Path) -> int:
    """Half of a width; of query heads in whole groups of those that share a key and value head."""
    value, axis = fields[path], _AXIS[_name(path)]
    if _kind(axis) != "heads":
        if value < 2 and _kind(axis) != "kv heads":
            raise InputError(_title(config), f"half of {_name(path)} {value} is nothing", "use a wider model")
        return max(1, value // 2)
    shared = {p[:-1]: value for p, value in fields.items() if _AXIS[_name(p)] == axis.replace("heads", "kv heads")}
    pairs = shared.get(path[:-1]) or shared.get(()) or next(iter(shared.values()), value)
    if value < 2 or value % pairs or (pairs == 1 and axis.startswith("linear")):
        what = f"{_name(path)} is {value}, in groups of {value / pairs:g}: half of it is no whole number of groups"
        raise InputError(_title(config), what, _REMEDY)
    return value // 2 if pairs == 1 else value // pairs * (pairs // 2)


def _derives_head_size(config: "PretrainedConfig") -> bool:
    """Whether the size of a head is the hidden size by the heads, and no field of its own."""
    return not any(re.match(rf"(qk_\w*)?({_HEAD_SIZE})", name) and v for name, v in config.to_dict().items())


def _by_heads(fields: dict[_Path, int]) -> int:
    """The hidden size by the number of heads."""
    return fields[_main(fields, "hidden")] // fields[_main(fields, "heads")]


def _fields(values: dict[str, Any]) -> dict[_Path, int]:
    """The widths in a config, by where they stand."""
    return {path: value for path, value in _walk(values) if _name(path) in _AXIS and value > 0}


def _walk(values: Any, path: _Path = ()) -> Iterator[tuple[_Path, int]]:
    """The whole numbers in a config, those in lists and in configs inside it among them."""
    items: Any = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        inside = isinstance(value, dict) and (key in _NESTED or path)
        if inside or isinstance(value, list | tuple):
            yield from _walk(value, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield (*path, key), value


def _with(config: "PretrainedConfig", widths: dict[_Path, int]) -> "PretrainedConfig":
    """A copy of a config with other widths."""
    from huggingface_hub.errors import StrictDataclassError

    values = copy.deepcopy(config.to_dict())
    for path, width in widths.items():
        place: Any = values
        for key in path[:-1]:
            place[key] = list(place[key]) if isinstance(place[key], tuple) else place[key]
            place = place[key]
        place[path[-1]] = width
    try:
        other = type(config).from_dict(values)
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        raise InputError(_title(config), f"{config.model_type} refuses other widths: {error}", _REMEDY) from None
    other.architectures = copy.copy(config.architectures)
    other._attn_implementation = config._attn_implementation  # set by the loader, not part of what is stored
    return other


def _axis_of(fields: dict[_Path, int], path: _Path) -> str:
    """The axis that a field belongs to; an embedding of another size than the hidden states has its own."""
    axis = _AXIS[_name(path)]
    return "embedding" if axis == "hidden" and fields[path] != fields[_main(fields, "hidden")] else axis


def _kind(axis: str) -> str:
    """What an axis counts: heads, kv heads, hidden or mlp."""
    if axis in _MLP_WIDTHS:
        return "mlp"
    return "hidden" if axis == "embedding" else re.sub("^(swa|linear) ", "", axis)


def _main(fields: dict[_Path, int], axis: str) -> _Path:
    """The field by which a model as a whole says its number of heads or its hidden size."""
    return next(path for name in _AXES[axis] for path in fields if path == (name,))


def _name(path: _Path) -> str:
    return next(str(key) for key in reversed(path) if isinstance(key, str))


def _title(config: "PretrainedConfig") -> str:
    return getattr(config, "name_or_path", "") or config.model_type
