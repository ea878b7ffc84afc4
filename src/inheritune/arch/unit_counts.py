"""From how much of a width is kept to the first units of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inheritune.arch.building import build_skeleton
from inheritune.arch.families import title
from inheritune.arch.head_size import head_size, legal_head_sizes
from inheritune.arch.selection import Indices, Selection
from inheritune.arch.stated import derives_head_size
from inheritune.arch.width import (
    REMEDY,
    SELECTED,
    Path,
    axis_of,
    by_heads,
    check_kind,
    counterpart,
    dotted,
    expert_groups,
    kind,
    main_field,
    widths,
)
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Numbers = Mapping[str, int | float]
"""How much is kept along an axis (heads, head_size, mlp, hidden, experts): a number of units, or a fraction."""


def first_units(config: "PretrainedConfig", numbers: Numbers) -> Selection:
    """The first units along each axis in `numbers`; all of the others. The target need not be exact (`Selection`).

    Fractions are rounded down. Of query heads that share a key and value head whole groups stay where the number allows
    it, else equally many heads of each of the first groups; with a single key and value head, the first heads. The size
    of a head does not change. Where heads are slices of the hidden size, a fraction of the hidden size follows the
    heads (of 25 heads of 64 half are 12, and 1600 becomes 768).

    Raises InputError for numbers that the architecture cannot have, with legal ones, and where a narrower model has no
    meaning. Source: arXiv 2404.08634, table 5, for half of everything.
    """
    if not numbers:
        return Selection()
    size, numbers = numbers.get("head_size"), {axis: n for axis, n in numbers.items() if axis != "head_size"}
    dimensions = None if size is None else _dimensions(config, size)
    if not numbers:
        return Selection(head_size=dimensions)
    fields = widths(config)
    if not numbers.keys() <= {"mlp", "experts"}:
        check_kind(config, fields)
    _check_same_number(config, fields, numbers)
    chosen: dict[Path, Indices] = {}
    for path in fields:
        group = kind(axis_of(fields, path))
        if group in SELECTED and group in numbers:
            chosen[path] = _first(config, fields, path, numbers[group])
    chosen |= _following(config, fields, numbers, chosen)
    attributes: dict[str, Any] = {"exact": False, "head_size": dimensions}
    for group, attribute in SELECTED.items():
        own = {path: indices for path, indices in chosen.items() if kind(axis_of(fields, path)) == group}
        if len({(fields[path], indices) for path, indices in own.items()}) == 1:
            attributes[attribute] = next(iter(own.values()))
            chosen = {path: indices for path, indices in chosen.items() if path not in own}
    return Selection(**attributes, by_field=tuple((dotted(path), indices) for path, indices in chosen.items()))


def _first(config: "PretrainedConfig", fields: dict[Path, int], path: Path, wanted: int | float) -> Indices:
    """The first units of one width."""
    width = fields[path]
    if isinstance(wanted, int) and wanted > width:
        raise InputError(
            title(config), f"{wanted} of {dotted(path)} asked for, which is {width}", f"give at most {width}"
        )
    if kind(axis_of(fields, path)) == "heads":
        return _first_heads(config, fields, path, wanted)
    if kind(axis_of(fields, path)) == "experts":
        return _first_experts(config, wanted)
    count = int(width * wanted) if isinstance(wanted, float) else wanted
    if not count:
        raise InputError(
            title(config), f"{wanted} of {dotted(path)} {width} is nothing", "keep more, or use a wider model"
        )
    return tuple(range(count))


def _dimensions(config: "PretrainedConfig", wanted: int | float) -> Indices:
    """The dimensions of a head that stay. Raises InputError for a size that heads cannot have, with the legal ones."""
    size = head_size(config)
    count = int(size * wanted) if isinstance(wanted, float) else wanted
    if count == size:
        return tuple(range(size))
    legal = legal_head_sizes(build_skeleton(config))
    if count not in legal:
        remedy = f"legal are {', '.join(map(str, legal))}" if legal else "keep the size of its heads"
        raise InputError(title(config), f"heads of {count} dimensions, of {size}", remedy)
    return legal[count]


def _first_heads(config: "PretrainedConfig", fields: dict[Path, int], path: Path, wanted: int | float) -> Indices:
    width, shared = fields[path], counterpart(fields, path)
    groups = width if shared is None else fields[shared]
    size, rest = divmod(width, groups)
    if rest or (groups == 1 and size > 1 and axis_of(fields, path).startswith("linear")):
        what = f"{dotted(path)} is {width}, in groups of {width / groups:g}: a part of it is no whole number of groups"
        raise InputError(title(config), what, REMEDY)
    if isinstance(wanted, float):
        count = int(width * wanted) if groups == 1 else int(groups * wanted) * size
    else:
        count = wanted
    of_each = next((n for n in range(size, 0, -1) if count % n == 0 and count // n <= groups), 0)
    if not count or not of_each:
        legal = sorted({n * each for n in range(1, groups + 1) for each in range(1, size + 1)})
        what = f"{wanted} of {dotted(path)} {width}"
        what += f", of which {size} each share a key and value head," if 1 < size < width else ""
        what += " cannot be"
        raise InputError(title(config), what, f"legal are {', '.join(map(str, legal))}")
    return tuple(group * size + head for group in range(count // of_each) for head in range(of_each))


def _first_experts(config: "PretrainedConfig", wanted: int | float) -> Indices:
    total, groups = expert_groups(config)
    each, count = total // groups, int(total * wanted) if isinstance(wanted, float) else wanted
    of_each = next((n for n in range(each, 0, -1) if count % n == 0 and count // n <= groups), 0)
    if not count or not of_each:
        legal = sorted({n * own for n in range(1, groups + 1) for own in range(1, each + 1)})
        what = f"{wanted} of {total} experts in {groups} groups"
        raise InputError(title(config), what, f"legal are {', '.join(map(str, legal))}")
    return tuple(group * each + one for group in range(count // of_each) for one in range(of_each))


def _check_same_number(config: "PretrainedConfig", fields: dict[Path, int], numbers: Numbers) -> None:
    """Raise InputError for a number of units where an architecture has several widths of that kind."""
    for group, wanted in numbers.items():
        own = {dotted(path): fields[path] for path in fields if kind(axis_of(fields, path)) == group}
        if group == "mlp" and not own and isinstance(wanted, float) and numbers.get("hidden") == wanted:
            continue  # its width follows the hidden size
        if not own:
            what = f"{group} are to be fewer, and its config gives no such width"
            more = " (GPT-2: n_inner is null)" if group == "mlp" else ""
            raise InputError(title(config), what + more, REMEDY)
        if isinstance(wanted, int) and len(set(own.values())) > 1:
            listed = ", ".join(f"{name} {width}" for name, width in own.items())
            raise InputError(title(config), f"{group}: {wanted}, and it has {listed}", "give a fraction, such as 0.5")


def _following(
    config: "PretrainedConfig", fields: dict[Path, int], numbers: Numbers, chosen: dict[Path, Indices]
) -> dict[Path, Indices]:
    """The hidden channels where they follow the heads.

    Raises InputError where heads are slices of the hidden size and the numbers do not go together.
    """
    if not numbers.keys() & {"heads", "hidden"}:
        return {}
    heads, hidden, size = main_field(fields, "heads"), main_field(fields, "hidden"), by_heads(fields)
    count = len(chosen.get(heads, range(fields[heads])))
    derived = derives_head_size(config)
    if "heads" in numbers and isinstance(numbers.get("hidden"), float):
        odd = fields[hidden] % fields[heads] == 0 and len(chosen[hidden]) % count
        if derived or odd:
            own = [path for path in fields if axis_of(fields, path) == "hidden"]
            return {path: tuple(range(size * count)) for path in own}
    if derived and len(chosen.get(hidden, range(fields[hidden]))) != size * count:
        what = f"its heads are slices of its hidden size, {size} channels each"
        raise InputError(title(config), what, f"with {count} heads give hidden: {size * count}")
    return {}
