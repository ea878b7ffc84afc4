"""How each dimension of each tensor depends on the widths in a config, found by building models without memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from inheritune.arch.families import title
from inheritune.arch.selection import Runs, as_runs, length
from inheritune.arch.stated import derives_head_size
from inheritune.arch.structure import tensor_shapes
from inheritune.arch.width import REMEDY, Path, axis_of, by_heads, kind, widths, with_widths
from inheritune.errors import BUILD_ERRORS, InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# Axes whose units repeat along a dimension, whatever else it depends on: all of one expert, then the next; the
# dimensions of one head, then those of the next.
REPEATED = ("experts", "head size")


@dataclass(frozen=True)
class Kept:
    """A width, and the indices that are kept of it."""

    width: int
    runs: Runs

    @property
    def is_whole(self) -> bool:
        """Whether all indices are kept."""
        return self.runs == ((0, self.width),)


@dataclass(frozen=True)
class Form:
    """What a dimension is: a fixed part, and for each axis how many indices each unit of its width adds."""

    fixed: int
    each: dict[str, int]

    def __str__(self) -> str:
        terms = [f"{count} x {axis}" for axis, count in self.each.items()]
        return " + ".join(terms + [str(self.fixed)] * bool(self.fixed or not terms))


@dataclass(frozen=True)
class Repeat:
    """How a dimension depends on such an axis: entries of a fixed number come last."""

    axis: str
    fixed: int

    def before(self, size: int, one: "Kept") -> int:
        """The size of a target's dimension before units of this axis went."""
        return (size - self.fixed) // length(one.runs) * one.width + self.fixed

    def within(self, runs: Runs, size: int, one: "Kept") -> Runs:
        """The part of `runs`, in a dimension of `size`, that belongs to the units that stay."""
        each = (size - self.fixed) // one.width
        units = frozenset(unit for start, stop in one.runs for unit in range(start, stop))

        def stays(entry: int) -> bool:
            if entry >= size - self.fixed:
                return True
            return (entry // each if self.axis == "experts" else entry % one.width) in units

        return as_runs(entry for start, stop in runs for entry in range(start, stop) if stays(entry))


NO_REPEAT = Repeat("", 0)


def is_cut(fields: dict[Path, int], kept: list[dict[Path, Runs]], axis: str) -> bool:
    """Whether a part of an axis goes."""
    own = [path for path in fields if axis_of(fields, path) == axis]
    return any(each[path] != ((0, fields[path]),) for each in kept for path in own)


def repeats_of(source: "PreTrainedModel", config: "PretrainedConfig", axis: str) -> dict[str, tuple[Repeat, ...]]:
    """How each dimension of each tensor depends on an axis of `REPEATED`, found by doubling it."""
    fields = widths(config)
    first = tensor_shapes(source)
    more = _skeleton(
        source, with_widths(config, {path: 2 * fields[path] for path in fields if axis_of(fields, path) == axis})
    )
    found = {
        name: tuple(
            Repeat(axis, 2 * size - large) if large > size else NO_REPEAT
            for size, large in zip(shape, more[name], strict=True)
        )
        for name, shape in first.items()
        if name in more
    }
    listed = axis == "experts" and more.keys() - first.keys()
    if not listed and all(repeat == NO_REPEAT for dimensions in found.values() for repeat in dimensions):
        raise InputError(title(config), f"no tensor of this model depends on its {axis}", REMEDY)
    return found


def forms_of(source: "PreTrainedModel", config: "PretrainedConfig", mlp_only: bool) -> dict[str, tuple[Form, ...]]:
    """How each dimension of each tensor depends on the widths, found by doubling one axis at a time.

    `mlp_only`: only on those of MLPs, with all others as they are.
    """
    of_all = widths(config)
    fields = {path: value for path, value in of_all.items() if axis_of(of_all, path) not in REPEATED}
    if mlp_only:
        fields = {path: value for path, value in fields.items() if kind(axis_of(of_all, path)) == "mlp"}
    derived = derives_head_size(config) and not mlp_only
    sizes = {"heads": 48, "kv heads": 8, "hidden": 672, "mlp": 160}
    base = {axis: sizes[kind(axis)] for axis in (axis_of(of_all, path) for path in fields)}
    base |= {"embedding": 104} if "embedding" in base else {}  # as in the source, not the hidden size
    if derived:
        base["hidden"] = 48 * by_heads(of_all)

    def built(sizes: dict[str, int]) -> dict[str, tuple[int, ...]]:
        return _skeleton(source, with_widths(config, {path: sizes[axis_of(of_all, path)] for path in fields}))

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
            dimensions.append(Form(size - sum(grown.values()), each))
        forms[name] = tuple(dimensions)
    return forms


def _skeleton(source: "PreTrainedModel", config: "PretrainedConfig") -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors of a model of the source's class."""
    import torch
    from transformers.initialization import no_init_weights

    try:
        with torch.device("meta"), no_init_weights():
            return tensor_shapes(type(source)(config))
    except BUILD_ERRORS as error:
        what = f"a {source.config.model_type} of another width cannot be built: {' '.join(str(error).split())}"
        raise InputError(title(source.config), what, REMEDY) from None
