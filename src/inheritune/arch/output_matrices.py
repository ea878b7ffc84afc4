"""The matrices with which a block's attention and MLP write into the hidden states."""

from typing import TYPE_CHECKING

from inheritune.arch.families import title
from inheritune.arch.roles import TRACE_ERRORS, role_in_block
from inheritune.arch.structure import Structure
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from inheritune.arch.roles import Role

REMEDY = "inherit without the refit"
_known: "dict[tuple[type, str, int], dict[Role, str]]" = {}  # by architecture, config and block: a trace takes seconds


def find_output_matrices(model: "PreTrainedModel", structure: Structure, index: int) -> "dict[Role, str]":
    """The modules of block `index`, by role, whose output is added to the hidden states as it is.

    These are the last projection of the MLP ("mlp") and, where the architecture adds it as it is, that of attention.
    `model` is on the meta device: a trace of the block shows that nothing but additions lies between the module's
    output and the block's.

    Raises InputError for a block whose MLP has no such matrix (a norm or a factor follows it, or there are several, as
    in mixtures of experts), and for one from which later blocks take more than the hidden states.
    """
    key = type(model), model.config.to_json_string(use_diff=False), index
    if key not in _known:
        _known[key] = _traced(model, structure, index)
    return dict(_known[key])


def _traced(model: "PreTrainedModel", structure: Structure, index: int) -> "dict[Role, str]":
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from inheritune.arch.tracing import follow_block

    place, name = f"refit: {title(model.config)}, block {index}", f"{structure.blocks}.{index}"
    block = model.get_submodule(name)
    try:
        whole = follow_block(model, name)
        assert whole.output is not None
        if whole.hands_on_more:
            raise InputError(place, "later blocks use more of it than its hidden states", REMEDY)
        last = whole.fact(whole.output).same or {}
        owners = {tensor.rpartition(".")[0] for tensor in last if "." in tensor}
        found: dict[Role, list[str]] = {}
        for owner in sorted(owners):
            module, role = block.get_submodule(owner), role_in_block(block, f"{owner}.weight")
            if role not in ("attention", "mlp") or not isinstance(module, nn.Linear | Conv1D):
                continue
            branch = follow_block(model, name, owner)
            assert branch.output is not None
            if branch.fact(branch.output).same is not None:
                found.setdefault(role, []).append(owner)
    except TRACE_ERRORS as error:
        raise InputError(place, f"its output depends on values, so it cannot be followed ({error})", REMEDY) from None
    matrices = {role: names[0] for role, names in found.items() if len(names) == 1}
    if "mlp" not in matrices:
        what = (
            "no single matrix of its MLP is added to the hidden states as it is"
            " (a norm or a factor follows it, or there are several, such as experts)"
        )
        raise InputError(place, what, REMEDY)
    return matrices
