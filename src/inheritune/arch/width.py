"""Widths in a config (heads, MLP neurons, hidden channels), and the config of a model that keeps some of each."""

import copy
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from inheritune.arch.config import remade
from inheritune.arch.experts import EXPERT_FIELDS, group_count, kept_groups
from inheritune.arch.families import title
from inheritune.arch.selection import Runs, Selection, as_runs, joined, length
from inheritune.arch.stated import HEAD_SIZE, check_head_size_stated, derives_head_size, stated
from inheritune.arch.vocabulary import with_vocabulary
from inheritune.errors import BUILD_ERRORS, InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

REMEDY = "keep the full width of this architecture"

Path = tuple[str | int, ...]
"""Where a field is in a config."""

# What config fields mean. Each kind of attention in a model has its own heads, and its own axis.
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
    "experts": EXPERT_FIELDS,
    "head size": tuple(HEAD_SIZE.split("|")),
}  # fmt: skip
_MLP_WIDTHS = {
    "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "dim_ff", "dff", "d_inner", "decoder_ffn_dim",
    "moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size", "intermediate_size_mlp",
    "shared_experts_intermediate_size", "expert_ffn_hidden_size", "dense_intermediate_size",
    "prefix_dense_intermediate_size", "moe_shared_expert_intermediate_size", "feed_forward_size",
}  # fmt: skip
_AXIS = {name: axis for axis, names in _AXES.items() for name in names} | {name: name for name in _MLP_WIDTHS}
_NESTED = {"attn_config", "ffn_config", "per_layer_config"}
SELECTED = {
    "heads": "heads", "mlp": "neurons", "hidden": "hidden", "experts": "experts", "head size": "head_size",
}  # fmt: skip
"""The attributes of `Selection`, by the kind of width that they select."""

# Widths of other kinds, of which no part is defined.
_NOT_HEADS = re.compile(r"^(mamba_|ssm_|state_size$|lru_width$|time_step_rank$)")
_NOT_MLP = {"moshi", "lfm2"}
_REFUSED: dict[str, str | None] = {
    "deepseek_v4": "its heads are projected in groups, whose number is not a width",
    "diffllama": "its attention subtracts the second half of the heads from the first",
    "moshi": "it has an MLP whose width is half of what its config says",
    "rwkv": "its blocks have no attention heads",
    "xlstm": "its blocks have no attention heads",
}


def narrow(config: "PretrainedConfig", selection: Selection) -> "PretrainedConfig":
    """The config of a model as deep as `config` that has the selected part of its width and vocabulary only.

    Tokens get new ids (see `with_vocabulary`). No other field changes, but those that `stated` writes and the number of
    groups of experts.

    Raises InputError where the architecture cannot be made narrower, or not in this way.
    """
    if selection.vocabulary is not None:
        return with_vocabulary(narrow(config, selection.without_vocabulary), selection.vocabulary)
    if selection.is_full_width:
        return copy.deepcopy(config)
    config = stated(config, selection)
    kept = kept_widths(config, selection)
    new = {path: length(runs) for path, runs in kept.items()}
    for path in kept:
        if axis_of(new, path) == "experts":
            new |= groups_of_experts(config, kept[path], path)
    heads, hidden = new[main_field(new, "heads")], new[main_field(new, "hidden")]
    try:
        return with_widths(config, new)
    except InputError as error:
        if hidden % heads == 0:
            raise
        near = _near(hidden, set(range(heads, widths(config)[main_field(new, "hidden")] + 1, heads)))
        remedy = f"its hidden size must be a multiple of its {heads} heads, such as {near}"
        raise InputError(title(config), error.problems[0].what, remedy) from None


def _near(value: int, legal: set[int]) -> str:
    """The legal values on both sides of a value."""
    near = sorted(legal, key=lambda one: abs(one - value))[:2]
    return " or ".join(map(str, sorted(near)))


def groups_of_experts(config: "PretrainedConfig", kept: Runs, path: Path) -> dict[Path, int]:
    """The fields of a config that hold the number of groups of experts, with the number of groups that stay."""
    numbers = dict(_walk(config.to_dict()))
    return kept_groups(config, numbers[path], kept, numbers)


def kept_widths(config: "PretrainedConfig", selection: Selection) -> dict[Path, Runs]:
    """For each width in a config the indices that are kept of it, by the first block where blocks keep others.

    Raises InputError as `narrow` does.
    """
    fields, selection = widths(config), selection.of_block(0)
    has_heads = any(len(path) == 1 and axis_of(fields, path) == "heads" for path in fields)
    if not mlp_alone(selection) or config.model_type in _NOT_MLP or not has_heads:
        check_kind(config, fields)
    if selection.head_size is not None:
        check_head_size_stated(config)
    kept = _selected(config, fields, selection)
    for path in (path for path in fields if kind(axis_of(fields, path)) == "kv heads"):
        heads = counterpart(fields, path)
        kept[path] = ((0, fields[path]),) if heads is None else _key_heads(config, fields, heads, kept[heads], path)
    for path in fields:
        shared = counterpart(fields, path) if kind(axis_of(fields, path)) == "heads" else None
        if shared is not None and _key_heads(config, fields, path, kept[path], shared) != kept[shared]:
            what = f"{dotted(path)} and another kind of heads keep different parts of {dotted(shared)}"
            raise InputError(title(config), what, "select heads of the same groups")
        if axis_of(fields, path) == "experts":
            groups_of_experts(config, kept[path], path)
    check_hidden(config, kept, derives_head_size(config))
    return kept


def mlp_alone(selection: Selection) -> bool:
    """Whether only neurons or experts are selected, so that widths of other kinds do not matter."""
    others = {selection.heads, selection.hidden, selection.head_size} != {None}
    fields = {_name(_path(name)) for name, _ in selection.by_field}
    return selection.exact and not others and fields <= _MLP_WIDTHS


def check_hidden(config: "PretrainedConfig", kept: dict[Path, Runs], by_size: bool) -> None:
    """Raise InputError where heads are slices of the hidden size (`by_size`) and their channels are not those kept."""
    fields = widths(config)
    heads, hidden = main_field(fields, "heads"), main_field(fields, "hidden")
    whole = kept[heads] == ((0, fields[heads]),) and kept[hidden] == ((0, fields[hidden]),)
    if by_size and not whole and kept[hidden] != scaled(kept[heads], by_heads(fields)):
        size = by_heads(fields)
        what = f"its heads are slices of its hidden size, {size} channels each"
        remedy = f"select the hidden channels of the selected heads (those of head 1 are {size} to {2 * size - 1})"
        raise InputError(title(config), what, remedy)


def _selected(config: "PretrainedConfig", fields: dict[Path, int], selection: Selection) -> dict[Path, Runs]:
    """The indices that a selection gives for each width but those of keys and values."""
    single, kept = dict(selection.by_field), {}
    for group, attribute in SELECTED.items():
        indices = getattr(selection, attribute)
        own = [path for path in fields if kind(axis_of(fields, path)) == group]
        general = [path for path in own if dotted(path) not in single and axis_of(fields, path) != "embedding"]
        if indices is not None and len({fields[path] for path in general}) != 1:
            listed = ", ".join(f"{dotted(path)} {fields[path]}" for path in general) or "none"
            what = f"{attribute} are selected, and its config has {listed}"
            if attribute == "neurons" and not general:
                what = "neurons are selected, and its config gives no width of the MLP (GPT-2: n_inner is null)"
            raise InputError(title(config), what, "select them by field" if general else REMEDY)
        for path in own:
            chosen: Any = single.pop(dotted(path), indices if path in general else None)
            kept[path] = ((0, fields[path]),) if chosen is None else as_runs(chosen)
            if kept[path][-1][1] > fields[path]:
                what = f"index {kept[path][-1][1] - 1} of {dotted(path)} is selected, which is {fields[path]}"
                raise InputError(title(config), what, f"legal are 0 to {fields[path] - 1}")
    if single:
        legal = ", ".join(dotted(path) for path in kept)
        raise InputError(title(config), f"its config has no width {next(iter(single))!r}", f"legal are {legal}")
    return kept


def counterpart(fields: dict[Path, int], path: Path) -> Path | None:
    """The key and value heads that go with a field of query heads, or the query heads with one of key and value heads.

    It is the field beside the other one, else one at the top level, else any.
    """
    axis = _AXIS[_name(path)]
    wanted = axis.replace("kv heads", "heads") if "kv heads" in axis else axis.replace("heads", "kv heads")
    others = [other for other in fields if _AXIS[_name(other)] == wanted]
    near = (other for parent in (path[:-1], ()) for other in others if other[:-1] == parent)
    return next(near, next(iter(others), None))


def _key_heads(config: "PretrainedConfig", fields: dict[Path, int], heads: Path, kept: Runs, keys: Path) -> Runs:
    """The heads of the field `keys` that the query heads `kept` of the field `heads` use."""
    group, rest = divmod(fields[heads], fields[keys])
    if kept == ((0, fields[heads]),):
        return ((0, fields[keys]),)
    counts = Counter(head // group for start, stop in kept for head in range(start, stop)) if group and not rest else {}
    if len(set(counts.values())) != 1:
        what = f"the selected heads of {dotted(heads)} ({fields[heads]}) are not equally many in each group that shares"
        legal = {groups * members for groups in range(1, fields[keys] + 1) for members in range(1, max(group, 1) + 1)}
        near = _near(length(kept), legal)
        remedy = f"select whole groups, or equally many of each group that stays, such as {near} heads"
        raise InputError(title(config), f"{what} a head of {dotted(keys)} ({fields[keys]})", remedy)
    return as_runs(sorted(counts))


def check_kind(config: "PretrainedConfig", fields: dict[Path, int]) -> None:
    """Raise InputError where a narrower model of such a kind has no meaning."""
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
        raise InputError(title(config), f"{config.model_type} cannot be made narrower: {reason}", REMEDY)


def head_sizes(config: "PretrainedConfig") -> set[int]:
    """The sizes that heads may have by a config."""
    values = config.to_dict()
    stated = rf"(v_|swa_|linear_.*)?({HEAD_SIZE})"
    return {value for path, value in _walk(values) if re.fullmatch(stated, _name(path))} | {by_heads(widths(config))}


def by_heads(fields: dict[Path, int]) -> int:
    """The hidden size by the number of heads."""
    return fields[main_field(fields, "hidden")] // fields[main_field(fields, "heads")]


def head_groups(config: "PretrainedConfig") -> tuple[int, int]:
    """The number of query heads, and of the key and value heads that they share: as many where they share none."""
    fields = widths(config)
    heads = main_field(fields, "heads")
    keys = counterpart(fields, heads)
    return fields[heads], fields[heads if keys is None else keys]


def expert_groups(config: "PretrainedConfig") -> tuple[int, int]:
    """The number of experts, and that of the groups in which routers choose them; no experts: 0."""
    fields = widths(config)
    experts = next((width for path, width in fields.items() if axis_of(fields, path) == "experts"), 0)
    return experts, group_count(dict(_walk(config.to_dict())))


def widths(config: "PretrainedConfig") -> dict[Path, int]:
    """The widths in a config, by their fields."""
    return {path: value for path, value in _walk(config.to_dict()) if _name(path) in _AXIS and value > 0}


def _walk(values: Any, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """The whole numbers in a config, those in lists and in configs inside it among them."""
    items: Any = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        inside = isinstance(value, dict) and (key in _NESTED or path)
        if inside or isinstance(value, list | tuple):
            yield from _walk(value, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield (*path, key), value


def with_widths(config: "PretrainedConfig", new: dict[Path, int]) -> "PretrainedConfig":
    """A copy of a config with other widths. Raises InputError where the config's class refuses them."""
    from huggingface_hub.errors import StrictDataclassError

    values = copy.deepcopy(config.to_dict())
    for path, width in new.items():
        place: Any = values
        for key in path[:-1]:
            place[key] = list(place[key]) if isinstance(place[key], tuple) else place[key]
            place = place[key]
        place[path[-1]] = width
    try:
        return remade(config, values)
    except (*BUILD_ERRORS, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise InputError(title(config), f"{config.model_type} refuses other widths: {reason}", REMEDY) from None


def scaled(runs: Runs, size: int, start: int = 0) -> Runs:
    """The entries of selected units that have `size` entries each, the first of them at `start`."""
    return joined((start + first * size, start + stop * size) for first, stop in runs)


def axis_of(fields: dict[Path, int], path: Path) -> str:
    """The axis that a field belongs to; an embedding of another size than the hidden states has its own."""
    axis = _AXIS[_name(path)]
    return "embedding" if axis == "hidden" and fields[path] != fields[main_field(fields, "hidden")] else axis


def kind(axis: str) -> str:
    """What an axis counts: heads, kv heads, hidden or mlp."""
    if axis in _MLP_WIDTHS:
        return "mlp"
    return "hidden" if axis == "embedding" else re.sub("^(swa|linear) ", "", axis)


def main_field(fields: dict[Path, int], axis: str) -> Path:
    """The field that gives a model's number of heads or its hidden size."""
    return next(path for name in _AXES[axis] for path in fields if path == (name,))


def _path(field: str) -> Path:
    return tuple(int(part) if part.isdecimal() else part for part in field.split("."))


def dotted(path: Path) -> str:
    """A field's name, with dots between its parts."""
    return ".".join(map(str, path))


def _name(path: Path) -> str:
    return next(str(key) for key in reversed(path) if isinstance(key, str))
