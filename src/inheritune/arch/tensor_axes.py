"""Which indices of each tensor belong to selected heads, MLP neurons and hidden channels.

Building the model without memory, with one width doubled at a time, shows how a tensor's dimension depends on the
config. Numbers are never compared, so 3 x hidden and an MLP of the same size are distinguished. A table gives the order
of parts only where several follow each other in one dimension.
"""

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from inheritune.arch.exactness import check_norm
from inheritune.arch.experts import listed_experts
from inheritune.arch.families import title
from inheritune.arch.selection import Runs, Selection, joined, length
from inheritune.arch.stated import derives_head_size, stated
from inheritune.arch.structure import find_structure, tensor_shapes
from inheritune.arch.tensor_forms import NO_REPEAT, REPEATED, Form, Kept, Repeat, forms_of, is_cut, repeats_of
from inheritune.arch.width import (
    REMEDY,
    Path,
    axis_of,
    by_heads,
    check_hidden,
    groups_of_experts,
    head_sizes,
    kept_widths,
    kind,
    mlp_alone,
    scaled,
    widths,
)
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Tensors in which several parts share a dimension, by the end of their name and the model type. A part is named after
# the width that it depends on.
_RUN: tuple[str, ...] = ()  # all of one unit or head, then the next; what has a fixed size comes last
_GROUPS = ("groups",)  # the queries, key and value of a group of heads, then the next group
_QKV, _KVQ = ("heads", "kv heads", "kv heads"), ("kv heads", "kv heads", "heads")
_EACH = ("...",)  # as many parts as there are experts or streams
_QUARTERS = ("quarters",)
_LAYOUTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"qkv_proj", "codegen", _QUARTERS),
    (r"qkv_proj", "minimax", _RUN),  # q, k, v of a head, then the next head
    (r"gate_up_proj(_bias)?", "gpt_oss", _RUN),  # gate and up of a unit, then the next unit
    (r"query_key_value|in_proj_qkvz|in_proj_ba", "", _GROUPS),
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


def kept_indices(
    source: "PreTrainedModel", target: "PreTrainedModel", selection: Selection
) -> dict[str, tuple[Runs, ...]]:
    """For every tensor of `target`, a narrower model of `source`: the indices that it takes of the source's tensor.

    Both may be on the meta device; `target.config` is `narrow(source.config, selection)`, so both have the same blocks.
    Both have all tokens (see `vocabulary_indices` for others).
    For each name in `target.state_dict()` there are the indices along each dimension, in the target's order.

    Raises InputError for a tensor whose parts are not known, and where the models do not belong together.
    """
    config = stated(source.config, selection)
    fields = widths(config)
    kept = kept_widths(config, selection)
    each = [kept_widths(config, selection.of_block(place)) for place in range(selection.blocks or 0)]
    for path in (path for path in fields if axis_of(fields, path) == "experts"):
        if any(
            groups_of_experts(config, own[path], path) != groups_of_experts(config, kept[path], path) for own in each
        ):
            raise InputError(title(config), "blocks keep experts of different numbers of groups", "keep equally many")
    if {path: length(runs) for path, runs in kept.items()} != widths(target.config):
        raise InputError(title(config), "the two models have different kinds of widths", "give narrow's config")
    shapes, targets, forms = (
        tensor_shapes(source),
        tensor_shapes(target),
        forms_of(source, config, mlp_alone(selection)),
    )
    repeats = {axis: repeats_of(source, config, axis) for axis in REPEATED if is_cut(fields, [kept, *each], axis)}
    check_hidden(config, kept, not any("heads" in form.each for all_of in forms.values() for form in all_of))
    structure = find_structure(source)
    if each and len(each) != structure.count:
        what = f"indices are given for each of {len(each)} blocks, and there are {structure.count}"
        raise InputError(title(config), what, "give them for every block of the target")
    heads = _Heads(config.model_type, by_heads(fields) if derives_head_size(config) else 0, head_sizes(config))
    result: dict[str, tuple[Runs, ...]] = {}
    for name, shape in targets.items():
        if len(shapes.get(name, ())) != len(shape) or name not in forms:
            raise InputError(title(config), f"{name} is in only one of the two models", "give narrow's config")
        block = structure.split(name)
        place = None if block is None else block[0]
        axes = _axes(fields, each[place] if each and place is not None else kept, place)
        own = {axis: found[name] for axis, found in repeats.items() if name in found}
        dimensions = []
        for number, form in enumerate(forms[name]):
            cuts = [(found[number], axes[axis][0]) for axis, found in own.items() if found[number] != NO_REPEAT]
            sizes = (shapes[name][number], shape[number])
            runs = _dimension(name, form, sizes, axes, heads, cuts)
            if runs is None:
                what = f"it is not known which parts make up dimension {number} ({sizes[0]}, {form})"
                raise InputError(title(config), f"{name}: {what}", REMEDY)
            if selection.exact and number == len(shape) - 1 and runs != ((0, sizes[0]),) and _is_norm(source, name):
                over = set() if form.each == {"heads": heads.size} else {kind(axis) for axis in form.each}
                check_norm(name, over | {repeat.axis for repeat, _ in cuts}, config)
            dimensions.append(runs)
        result[name] = tuple(dimensions)
    return result


@dataclass(frozen=True)
class _Heads:
    """A model's type, the size of a head if derived from the hidden size (else 0), and all sizes that heads have."""

    model_type: str
    size: int
    sizes: set[int]


_Part = tuple[int, Kept]
"""Units, and how many entries each of them has."""


def kept_experts(source: "PreTrainedModel", target: "PreTrainedModel", selection: Selection) -> dict[str, str]:
    """For tensors of `target` whose experts are modules in a list: the tensor of `source` that each is made from."""
    structure, origins = find_structure(source), dict[str, str]()
    each: list[Any] = [selection.of_block(place).experts or () for place in range(selection.blocks or 1)]
    for name, (home, number, rest) in listed_experts(target.state_dict(), len(each[0])).items():
        block = structure.split(name)
        own = each[block[0] if block is not None and selection.blocks else 0]
        origins[name] = f"{home}.{own[number]}.{rest}"
    return origins


def _axes(fields: dict[Path, int], kept: dict[Path, Runs], block: int | None) -> dict[str, list[Kept]]:
    """The widths that an axis may have for a tensor of a block (None: outside the blocks), the most likely first."""

    def order(path: Path) -> int:
        numbers = [int(part) for part in path if str(part).isdecimal()]
        return 1 if not numbers else 0 if block in numbers else 2

    axes: dict[str, list[Kept]] = {}
    for path in sorted(fields, key=order):
        axes.setdefault(axis_of(fields, path), []).append(Kept(fields[path], kept[path]))
    return axes


def _dimension(
    name: str,
    form: Form,
    sizes: tuple[int, int],
    axes: dict[str, list[Kept]],
    heads: "_Heads",
    cuts: list[tuple[Repeat, Kept]],
) -> Runs | None:
    """As `_runs`, where experts or dimensions of heads go too."""
    before = sizes[1]
    for repeat, one in cuts:
        before = repeat.before(before, one)
    runs = _runs(name, form, (sizes[0], before), axes, heads)
    for repeat, one in cuts:
        runs = None if runs is None else repeat.within(runs, sizes[0], one)
    return runs


def _runs(name: str, form: Form, sizes: tuple[int, int], axes: dict[str, list[Kept]], heads: "_Heads") -> Runs | None:
    """The indices that a target dimension takes of a source dimension of that form; None where they are not known."""
    if not form.each:
        return ((0, sizes[0]),) if sizes[0] == sizes[1] else None
    for chosen in product(*(axes[axis] for axis in form.each)):
        own = dict(zip(form.each, chosen, strict=True))
        before = form.fixed + sum(count * own[axis].width for axis, count in form.each.items())
        after = form.fixed + sum(count * length(own[axis].runs) for axis, count in form.each.items())
        if (before, after) == sizes:
            break
    else:
        return None
    if all(one.is_whole for one in own.values()):
        return ((0, sizes[0]),)
    # the other side of a tensor is the hidden states, whatever the tensor's parts are
    is_hidden = not form.fixed and form.each in ({"hidden": 1}, {"heads": heads.size})
    layout = None if is_hidden else _layout(name, heads.model_type)
    if layout == _QUARTERS:
        return _quarters(own["heads"], sizes[0] // own["heads"].width // 3)
    parts = None if layout is None else _parts(layout, form, own, axes)
    if parts is None and not form.fixed and len(own) == 1:
        ((axis, sole),) = own.items()
        count = form.each[axis]
        parts = [(count, sole)] if count == 1 or ("heads" in axis and count in heads.sizes) else None
    if parts is None:
        return None
    runs, start = list[tuple[int, int]](), 0
    for size, one in parts:  # one after the other
        runs += scaled(one.runs, size, start)
        start += size * one.width
    return joined(runs)


def _fixed(size: int) -> _Part:
    return size, Kept(1, ((0, 1),))


def _parts(
    layout: tuple[str, ...], form: Form, own: dict[str, Kept], axes: dict[str, list[Kept]]
) -> list[_Part] | None:
    """The parts that follow each other in a dimension; None where they are not known."""
    if layout in (_RUN, _GROUPS):
        return _run(layout, form, own, axes)
    if layout == _EACH:
        if form.fixed or len(own) > 1:
            return None
        ((sole, one),) = own.items()
        return [(1, one)] * form.each[sole]
    by_kind = {kind(axis): axis for axis in own}
    other = None if form.fixed else by_kind.get("heads", by_kind.get("hidden"))  # where the heads are the hidden size
    chosen = [by_kind.get(part, None if part == "mlp" else other) for part in layout]
    parts: list[_Part] = []
    for axis in chosen:
        each, rest = divmod(form.fixed if axis is None else form.each[axis], chosen.count(axis))
        if rest or not each:
            return None
        parts.append(_fixed(each) if axis is None else (each, own[axis]))
    return parts if set(own) <= set(chosen) else None


def _run(layout: tuple[str, ...], form: Form, own: dict[str, Kept], axes: dict[str, list[Kept]]) -> list[_Part] | None:
    """Units or groups of heads, then parts of a fixed size (such as one key and value for all)."""
    cut = {axis: one for axis, one in own.items() if not one.is_whole}
    fixed = form.fixed + sum(form.each[axis] * own[axis].width for axis in own.keys() - cut.keys())
    if (fixed or len(own) > 1) and not all("heads" in axis for axis in own):
        return None
    behind = [_fixed(fixed)] if fixed else []
    (axis, one), *others = sorted(cut.items(), key=lambda item: "kv" in item[0])
    if not others:
        if any(own[other].width > 1 for other in own.keys() - cut.keys()):
            return None
        shared = next(iter(axes.get(axis.replace("heads", "kv heads"), ())), None)
        grouped = layout == _GROUPS and shared is not None and (shared.width > 1 or axis.startswith("linear"))
        if grouped and shared is not None and not _are_groups(one, shared):
            return None
        return [(form.each[axis], one), *behind]
    _, keys = others[0]
    if not _are_groups(one, keys):
        return None
    return [(sum(form.each[axis] * each.width for axis, each in cut.items()) // keys.width, keys), *behind]


def _are_groups(heads: Kept, keys: Kept) -> bool:
    """Whether exactly those query heads are kept whose key and value head is kept."""
    return heads.runs == scaled(keys.runs, heads.width // keys.width)


def _quarters(heads: Kept, size: int) -> Runs | None:
    """CodeGen's layout: four blocks (for four devices), each with the queries, values and keys of its heads."""
    kept = [head for start, stop in heads.runs for head in range(start, stop)]
    if heads.width % 4 or len(kept) % 4:
        return None
    runs: list[tuple[int, int]] = []
    for block, part in product(range(4), range(3)):
        for head in kept[block * len(kept) // 4 : (block + 1) * len(kept) // 4]:
            home, place = divmod(head, heads.width // 4)
            start = ((home * 3 + part) * (heads.width // 4) + place) * size
            runs.append((start, start + size))
    return tuple(runs)


def _layout(name: str, model_type: str) -> tuple[str, ...] | None:
    module = re.sub(r"\.(weight|bias)$", "", name)
    for pattern, only, layout in _LAYOUTS:
        if only in ("", model_type) and re.search(rf"(^|\.)({pattern})$", module):
            return layout
    return None


def _is_norm(model: "PreTrainedModel", tensor: str) -> bool:
    return "Norm" in type(model.get_submodule(tensor.rpartition(".")[0])).__name__
