"""Where units are in a model: the matrices behind its neurons and heads, and the dimensions of its hidden channels."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inheritune.arch.families import title
from inheritune.arch.selection import Selection
from inheritune.arch.stated import derives_head_size, stated
from inheritune.arch.structure import find_structure
from inheritune.arch.tensor_forms import forms_of
from inheritune.arch.width import REMEDY, kind
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_ALL = Selection(heads=(0,), neurons=(0,), hidden=(0,))  # whatever a config leaves to its defaults is of interest
_AXES: dict[str, Literal["neurons", "heads"]] = {"mlp": "neurons", "heads": "heads"}


@dataclass(frozen=True)
class UnitMatrix:
    """The linear module `name` of a block, whose inputs are what `count` neurons or heads give, `size` numbers each."""

    name: str
    count: int
    size: int


def find_unit_matrices(model: "PreTrainedModel") -> list[dict[Literal["neurons", "heads"], UnitMatrix]]:
    """For each block the matrix behind its neurons and the one behind its heads.

    A norm may follow the matrix. `model` may be on the meta device. An axis is missing where a block has no such module
    or several (experts), and heads are missing where they are slices of the hidden size.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    structure, config = find_structure(model), stated(model.config, _ALL)
    axes, derived = _axes_of_tensors(model, config), derives_head_size(config)
    found: list[dict[Literal["neurons", "heads"], UnitMatrix]] = []
    for number in range(structure.count):
        own: dict[Literal["neurons", "heads"], list[UnitMatrix]] = {"neurons": [], "heads": []}
        block = model.get_submodule(f"{structure.blocks}.{number}")
        for name, module in block.named_modules():
            tensor = structure.name_in(number, f"{name}.weight")
            if not isinstance(module, nn.Linear | Conv1D) or tensor not in axes:
                continue
            into, out = axes[tensor] if isinstance(module, Conv1D) else reversed(axes[tensor])
            if len(into) != 1 or not _is_hidden(out, derived):
                continue
            ((axis, size),) = into.items()
            if (group := _AXES.get(kind(axis))) is not None and not (derived and group == "heads"):
                width = module.weight.shape[0 if isinstance(module, Conv1D) else 1]
                own[group].append(UnitMatrix(name, width // size, size))
        found.append({axis: matrices[0] for axis, matrices in own.items() if len(matrices) == 1})
    return found


def channel_dimensions(model: "PreTrainedModel") -> dict[str, tuple[int, ...]]:
    """For each tensor with hidden channels the dimensions along which they are.

    A dimension may hold several parts with all the channels, one after the other. `model` may be on the meta device.

    Raises InputError where the heads are slices of the hidden size, so that channels cannot be told from heads.
    """
    config = stated(model.config, _ALL)
    if derives_head_size(config):
        what = "its heads are slices of its hidden size, so hidden channels cannot be chosen without them"
        raise InputError(title(model.config), what, REMEDY)
    return {
        name: places
        for name, dimensions in _axes_of_tensors(model, config).items()
        if (places := tuple(place for place, axes in enumerate(dimensions) if list(axes) == ["hidden"]))
    }


def _axes_of_tensors(model: "PreTrainedModel", config: "PretrainedConfig") -> dict[str, tuple[dict[str, int], ...]]:
    """For each dimension of each tensor, the axes that it consists of, and how many entries each of their units has.

    Empty for a dimension that has another part as well, such as the width of a latent.
    """
    return {
        name: tuple({} if form.fixed else form.each for form in forms)
        for name, forms in forms_of(model, config, mlp_only=False).items()
    }


def _is_hidden(axes: dict[str, int], derived: bool) -> bool:
    return list(axes) == ["hidden"] or (derived and list(axes) == ["heads"])
