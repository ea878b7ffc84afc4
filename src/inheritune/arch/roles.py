"""What each tensor of a decoder is for, and which values make a block return its input.

There is no table of architectures. The modules that hold a block's tensors tell their roles, and the time of use tells
those of tensors outside the blocks. What turns a block into the identity is found by tracing a forward (`tracing`).
"""

import re
from typing import TYPE_CHECKING, Any, Literal, get_args

from inheritune.arch.families import title
from inheritune.arch.structure import Structure
from inheritune.errors import InputError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

Role = Literal["attention", "mlp", "norms", "final_norm", "embeddings", "head"]
ROLES: tuple[Role, ...] = get_args(Role)

_NORM = re.compile(r"norm(alization)?(\d\w?)?$")
# What mixes positions is attention; what works on each position alone is the MLP. The first group with a match decides:
# an "mlp_convolution" is a part of the MLP.
_WORDS: tuple[dict[Role, re.Pattern[str]], ...] = (
    {
        "attention": re.compile(r"attn|attention|(^|_)att(_|$)|mamba|(^|_)ssm|retention|lstm|delta_?net|hyena"),
        "mlp": re.compile(
            r"mlp|moe|expert|router|ffn|(^|_)ff(_|$)|feed_?forward|channel_?mix|(^|_)fc(_|\d)|^gate$|glu$"
            r"|^intermediate$|^output$|per_layer|laurel|altup"
        ),
    },
    {"attention": re.compile(r"conv|temporal|time_?mix|recurren|rnn|mixer")},
)
_EMBEDDING = re.compile(r"embd|embed|(^|[._])w[tp]e([._]|$)|position")
_ANY_BLOCK = ("mixer", "block", "layer", "module", "operator")  # names of modules whose class tells what they are
TRACE_ERRORS = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, KeyError, IndexError)


def tensor_roles(model: "PreTrainedModel", structure: Structure) -> dict[str, Role]:
    """The role of every tensor in `model.state_dict()`, tied ones under each of their names.

    In a block the sequence mixer, whatever it is, is "attention" and the feed-forward "mlp", each with the norms inside
    it; norms on the residual stream are "norms". What is used before the blocks is "embeddings" (positions, projections
    in and norms on them too), what is used after them "final_norm" or "head". A tied head is "embeddings": one tensor.
    Runs a forward of a few tokens, which costs nothing on the meta device.

    Raises InputError, naming it, for a tensor whose role cannot be told.
    """
    from inheritune.arch.tracing import moments_of_use

    try:
        moments = moments_of_use(model, model.get_submodule(structure.blocks))
    except TRACE_ERRORS:
        moments = None
    inputs: Any = model.get_input_embeddings()
    embeddings = {id(tensor) for tensor in inputs.parameters()}
    # every tensor under each of its names, as the object that the modules hold
    tensors: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    roles: dict[str, Role] = {}
    for name in model.state_dict():
        block = structure.split(name)
        role: Role | None
        if block is not None:
            role = role_in_block(model.get_submodule(f"{structure.blocks}.{block[0]}"), block[1])
        elif id(tensors.get(name)) in embeddings:
            role = "embeddings"
        elif moments is None:
            role = _role_by_order(model, structure, name)
        elif (when := moments.get(id(tensors.get(name)))) == "after":
            role = "final_norm" if _is_norm(model, structure, name) else "head"
        else:
            role = "embeddings" if when == "before" or _EMBEDDING.search(name) else None
        if role is None:
            raise InputError(title(model.config), f"it cannot be told what {name} is for", "inherit all sub-modules")
        roles[name] = role
    return roles


def identity_values(model: "PreTrainedModel", structure: Structure, index: int) -> dict[str, float]:
    """The tensors of block `index` that must be filled, and with which value, for it to return exactly its input.

    Names are those inside the block. Nearly all are the last projections of the block's branches with their biases, and
    the value is 0, also where a norm follows the projection inside the branch: that gives zero exactly, and trains
    better than a zeroed gain (benchmarks/function_preserving_growth.py). A scale on the residual stream itself, such as
    Gemma 4's, gets 1. `model` is the one that the block is inserted into, on the meta device; no values are needed.

    Raises InputError, with the reason, where no such values exist or where it cannot be proved that they do.
    """
    from inheritune.arch.tracing import follow_block

    place, remedy = f"{title(model.config)}, block {index}", "set grow.function_preserving to false"
    if not any(tensor.is_meta for tensor in model.parameters()):  # some constructors draw a few tensors elsewhere
        raise ValueError("identity_values needs a model on the meta device")
    try:
        trace = follow_block(model, f"{structure.blocks}.{index}")
    except TRACE_ERRORS as error:
        what = f"it cannot be proved that the block can be made to return its input, as it depends on values ({error})"
        raise InputError(place, what, remedy) from None
    if trace.hands_on_more:
        raise InputError(place, "later blocks use more of it than its output, so that it always has an effect", remedy)
    assert trace.output is not None
    values = trace.fact(trace.output).same
    if values is None:
        norm = "norm" in trace.made_by
        why = "a norm follows the addition" if norm else "its output is not its input plus branches with a last weight"
        raise InputError(place, f"it cannot be made to return its input: {why}", remedy)
    return dict(values)


def role_in_block(module: "nn.Module", rest: str) -> Role | None:
    """The role of a block's tensor, by the outermost module in the block that holds it."""
    name, _, inner = rest.partition(".")
    if not inner:
        # Vectors and numbers that scale the residual stream or a branch (layer_scalar, residual gates) work as the
        # norms' gains do, and fit the norms that they were trained with. Nothing is known about a loose matrix.
        return "norms" if getattr(module, name).dim() <= 1 else None
    child = module.get_submodule(name)
    kind = type(child).__name__.lower()
    if kind.endswith("decoderlayer"):  # a block around a block, as Zamba's
        return role_in_block(child, inner)
    if _NORM.search(kind) or all(tensor.dim() <= 1 for tensor in child.state_dict().values()):
        return "norms"  # gains in a module of their own, such as layer scales, for the same reason
    by_name = None if name in _ANY_BLOCK else _role_of_words(name)
    return by_name or _role_of_words(kind)


def _role_of_words(text: str) -> Role | None:
    for words in _WORDS:
        roles = [role for role, pattern in words.items() if pattern.search(text)]
        if roles:
            return roles[0] if len(roles) == 1 else None
    return None


def _role_by_order(model: "PreTrainedModel", structure: Structure, name: str) -> Role | None:
    """For models that cannot be run without values: by the place where the tensor's module is registered."""
    owner, head = name.rpartition(".")[0], model.get_output_embeddings()
    base = structure.blocks.partition(".")[0]
    if not name.startswith(base + ".") or (head is not None and model.get_submodule(owner) is head):
        return "head"
    if _is_norm(model, structure, name) and not _EMBEDDING.search(owner.rpartition(".")[0]):
        # OPT registers its final norm before its blocks, so only a single norm that is registered after them is certain
        names = [other for other, _ in model.named_modules()]
        owners = {other.rpartition(".")[0] for other in model.state_dict() if structure.split(other) is None}
        alone = sum(_is_norm(model, structure, f"{other}.weight") for other in owners) == 1
        return "final_norm" if alone and names.index(owner) > names.index(structure.blocks) else None
    return "embeddings" if _EMBEDDING.search(name) else None


def _is_norm(model: "PreTrainedModel", structure: Structure, name: str) -> bool:
    """Whether a tensor outside the blocks belongs to a norm that is not part of the head."""
    owner = model.get_submodule(name.rpartition(".")[0])
    outer, dot, _ = structure.blocks.partition(".")
    return bool(_NORM.search(type(owner).__name__.lower())) and (not dot or name.startswith(outer + "."))
