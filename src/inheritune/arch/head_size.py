"""Smaller heads: which dimensions can go, so that rotary embeddings turn those that stay as before."""

import sys
from typing import TYPE_CHECKING, Any

from inheritune.arch.families import title
from inheritune.arch.selection import Indices, Selection
from inheritune.arch.stated import check_head_size_stated, stated
from inheritune.arch.width import axis_of, narrow, widths
from inheritune.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

# Frequencies that depend on the text's length, are listed in the config, or are divided by what they count.
_NOT_COMPARED = ("'dynamic'", "'longrope'", "mrope_section")


def legal_head_sizes(model: "PreTrainedModel") -> dict[int, Indices]:
    """For each smaller head size that positions allow: the dimensions that stay. Empty where there is none.

    A norm over the dimensions of a head forbids all of them, which only a plan shows. With rotary embeddings the legal
    sizes are those whose frequencies are among the model's own: rotary modules are built
    from both configs and compared. `model` may be on the meta device.

    Raises InputError where its config has no size of heads.
    """
    size = head_size(model.config)
    legal = {}
    for smaller in range(1, size):
        kept = _dimensions(model, size, smaller)
        if kept is not None:
            legal[smaller] = kept
    return legal


def head_size(config: "PretrainedConfig") -> int:
    """The size of a head. Raises InputError where the config does not give one, or several."""
    given = stated(config, Selection(head_size=(0,)))
    check_head_size_stated(given)
    fields = widths(given)
    return next(fields[path] for path in fields if axis_of(fields, path) == "head size")


def check_head_size(model: "PreTrainedModel", kept: Indices) -> None:
    """Raise InputError where rotary embeddings would turn the dimensions `kept` by other angles than before."""
    size = head_size(model.config)
    before, after = _pairs(model, size, size), _pairs(model, size, len(kept))
    if before is not None and after is not None:
        inside = [sum(dimension in kept for dimension in pair) for pair in before]
        stay = [found for found, count in zip(before.values(), inside, strict=True) if count == 2]
        if 1 not in inside and [_rounded(found) for found in stay] == [_rounded(found) for found in after.values()]:
            return
    legal = legal_head_sizes(model)
    remedy = "keep the size of its heads"
    if legal:
        remedy = (
            f"legal are {', '.join(map(str, legal))} dimensions, such as {_words(legal[max(legal)])} for {max(legal)}"
        )
    what = f"rotary embeddings would turn {len(kept)} of the {size} dimensions of a head by other angles than before"
    raise InputError(title(model.config), what, remedy)


def _words(kept: Indices) -> str:
    return ", ".join(map(str, kept)) if len(kept) <= 8 else ", ".join(map(str, kept[:6])) + f", ... {kept[-1]}"


def _rounded(frequencies: Any) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in frequencies)


def _dimensions(model: "PreTrainedModel", size: int, smaller: int) -> Indices | None:
    """The dimensions that make heads of `smaller` dimensions; None where no set of them does."""
    before, after = _pairs(model, size, size), _pairs(model, size, smaller)
    if before is None or after is None:
        return None
    chosen: list[int] = []
    own = iter(before.items())
    for wanted in after.values():
        pair = next((pair for pair, found in own if _rounded(found) == _rounded(wanted)), None)
        if pair is None:
            return None
        chosen += pair
    rotated = {dimension for pair in before for dimension in pair}
    free = [dimension for dimension in range(size) if dimension not in rotated]
    if len(chosen) > smaller or len(free) < smaller - len(chosen):
        return None
    return tuple(sorted(chosen + free[: smaller - len(chosen)]))


def _pairs(model: "PreTrainedModel", size: int, smaller: int) -> dict[tuple[int, int], list[float]] | None:
    """The pairs of dimensions that rotary embeddings turn in heads of a size, with their frequencies in each table.

    Empty for a model without rotary embeddings; None where it cannot be told.
    """
    tables = _tables(model, size, smaller)
    if tables is None:
        return None
    if not tables:
        return {}
    count = len(tables[0])
    halves = _turns_halves(model)
    if halves is None or any(len(table) != count for table in tables) or 2 * count > smaller:
        return None
    pairs = [(i, i + count) if halves else (2 * i, 2 * i + 1) for i in range(count)]
    return {pair: [float(table[i]) for table in tables] for i, pair in enumerate(pairs)}


def _tables(model: "PreTrainedModel", size: int, smaller: int) -> "list[torch.Tensor] | None":
    """The frequencies that the model's rotary modules have with heads of a size; None where they cannot be built."""
    rotary = [module for module in model.modules() if any("inv_freq" in name for name in module._buffers)]
    config = model.config
    parameters = str(config.to_dict().get("rope_parameters"))
    if any(word in parameters for word in _NOT_COMPARED):
        return None
    if smaller < size:
        try:
            config = narrow(config, Selection(head_size=tuple(range(smaller))))
        except InputError:
            return None
    tables: list[torch.Tensor] = []
    for module in rotary:
        built = _built(module, config)
        if built is None:
            return None
        tables += [
            table
            for name, table in built.named_buffers(recurse=False)
            if name.endswith("inv_freq") and "original" not in name
        ]
    return tables


def _built(module: "nn.Module", config: "PretrainedConfig") -> "nn.Module | None":
    """A rotary module like `module` for another config, in memory; None where it takes more than a config."""
    import torch

    try:
        with torch.device("cpu"):
            return type(module)(config=config)
    except (TypeError, ValueError, KeyError, AttributeError, ZeroDivisionError, RuntimeError):
        return None


def _turns_halves(model: "PreTrainedModel") -> bool | None:
    """Whether a pair is a dimension of the first half and one of the second, or two neighbours; None if unknown."""
    import torch

    code = sys.modules[type(model).__module__]
    rotate = getattr(code, "rotate_half", None)
    if rotate is None:
        return True if hasattr(code, "_apply_rotary_emb") else None
    try:
        turned = rotate(torch.arange(1.0, 9.0, device="cpu"))
    except (TypeError, ValueError, IndexError, RuntimeError):
        return None
    return {5.0: True, 2.0: False}.get(abs(float(turned[0])))
