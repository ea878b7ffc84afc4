"""Reading a model's own code for what its tensors do not show: whether a block uses its place or the model's depth.

A block needs its number to find its slot in a cache and its kind in a list of the config. Any other use of the number
makes it compute something else at another place. What the constructor does shows in the block (`differences`), so only
code that runs in a forward pass is read here.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Attributes and arguments that only give a block's place.
POSITION = re.compile(r"^(layer_idx|layer_id|layer_index|layer_number|block_idx|idx)$")

_DEPTH = re.compile(r"^(num_hidden_layers|num_layers|n_layers?)$")
_SLOTS = re.compile(r"past|cache|state|config|layer_types|logg|warn|mask|mems|position_embeddings", re.IGNORECASE)

_ANY = re.compile(".")

# Names of the variable of a loop over blocks. A block's own code is read too.
_BLOCK_NAMES = ("layer", "block", "decoder_layer", "layer_module", "blk")

# Packages whose classes need no reading.
_TRUSTED = {"torch", "builtins", "abc", "typing", "collections"}


@dataclass(frozen=True)
class Use:
    """A class and an expression in its code that uses a block's number, or the number of blocks."""

    text: str
    of_depth: bool = False


def uses_of_place(model: "PreTrainedModel", blocks: str) -> tuple[Use, ...]:
    """Where the code of a model, whose blocks are in the list named `blocks`, uses a block's number or the depth.

    Empty where it only looks up cache slots and entries of the config. Code that cannot be read counts as a use.
    """
    uses: dict[Use, None] = {}
    inside: set[type] = {type(module) for module in model.get_submodule(blocks).modules()}
    for cls in sorted(inside, key=lambda cls: cls.__name__):
        uses |= dict.fromkeys(_uses_in_block(cls))
    owner, _, name = blocks.rpartition(".")
    around: type = type(model.get_submodule(owner))
    uses |= dict.fromkeys(_uses_in_owner(around, name))
    return tuple(uses)


@lru_cache(maxsize=4096)
def _uses_in_block(cls: type) -> tuple[Use, ...]:
    uses = [] if _is_readable(cls) else [Use(f"{cls.__name__}: its code cannot be read")]
    for method in _running_methods(cls):
        arguments = {argument.arg for argument in [*method.args.args, *method.args.kwonlyargs]}
        numbers = {name for name in arguments if POSITION.match(name)}
        uses += _uses(cls, method, ast.walk(method), numbers, own=True)
    return tuple(uses)


@lru_cache(maxsize=4096)
def _uses_in_owner(cls: type, blocks: str) -> tuple[Use, ...]:
    uses: list[Use] = []
    loops = 0
    for method in _running_methods(cls):
        for loop in ast.walk(method):
            if not isinstance(loop, ast.For) or not re.search(rf"\bself\.{blocks}\b", ast.unparse(loop.iter)):
                continue
            loops += 1
            numbers = set()
            if ast.unparse(loop.iter).startswith("enumerate(") and isinstance(loop.target, ast.Tuple):
                numbers = {ast.unparse(loop.target.elts[0])}
            uses += _uses(cls, method, _inside(loop), numbers)
            uses += [Use(f"{cls.__name__}: {name} goes from block to block") for name in _carried(loop)]
    if not loops:
        uses.append(Use(f"{cls.__name__}: its loop over the blocks cannot be found"))
    return tuple(uses)


def _uses(
    cls: type, method: ast.FunctionDef, nodes: Iterable[ast.AST], numbers: set[str], own: bool = False
) -> Iterator[Use]:
    """Where `nodes` of a method use a block's number (a name in `numbers`, or its `own` attribute), or the depth."""
    parents = {child: node for node in ast.walk(method) for child in ast.iter_child_nodes(node)}
    for node in nodes:
        is_depth = isinstance(node, ast.Attribute) and _DEPTH.match(node.attr) and "config" in ast.unparse(node.value)
        is_number = (isinstance(node, ast.Name) and node.id in numbers) or (own and _is_own(node, POSITION))
        if is_depth or (is_number and not _only_looks_up(cls, node, parents)):
            while node in parents and not isinstance(parents[node], ast.stmt):
                node = parents[node]
            yield Use(f"{cls.__name__}: {ast.unparse(node)[:100]}", bool(is_depth))


def _inside(loop: ast.For) -> Iterator[ast.AST]:
    return (node for statement in loop.body for node in ast.walk(statement))


def _carried(loop: ast.For) -> list[str]:
    """Names that a block's call returns besides the hidden state, and that a later block's call takes."""
    returned: set[str] = set()
    taken: set[str] = set()
    for node in _inside(loop):
        if isinstance(node, ast.Call):
            taken |= {
                arg.id for arg in [*node.args, *(word.value for word in node.keywords)] if isinstance(arg, ast.Name)
            }
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and isinstance(node.targets[0], ast.Tuple):
            returned |= {name.id for name in node.targets[0].elts[1:] if isinstance(name, ast.Name)}
    return sorted(name for name in returned & taken if not _SLOTS.search(name) or "hidden" in name)


def _running_methods(cls: type) -> Iterator[ast.FunctionDef]:
    """The methods that a forward pass can reach, as syntax; nothing where there is no source to read."""
    methods: dict[str, ast.FunctionDef] = {}
    for base in reversed(cls.__mro__):
        body = None if _is_machinery(base) else _classes(base.__module__).get(base.__qualname__)
        if body is not None:
            methods |= {node.name: node for node in body.body if isinstance(node, ast.FunctionDef)}
    waiting, seen = ["forward"], set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in methods:
            continue
        seen.add(name)
        yield methods[name]
        attributes = [node for node in ast.walk(methods[name]) if isinstance(node, ast.Attribute)]
        waiting += [node.attr for node in attributes if _is_own(node, _ANY)]


@lru_cache(maxsize=64)
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes of a module as syntax, by name; none where there is no source to read."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError, KeyError):
        return {}
    nodes = reversed(list(ast.walk(tree)))  # so that of two of a name the outer one counts
    return {node.name: node for node in nodes if isinstance(node, ast.ClassDef)}


def _is_machinery(cls: type) -> bool:
    """Whether a class is Python's, torch's, or transformers' own outside its models: none uses blocks' numbers."""
    top, _, rest = cls.__module__.partition(".")
    return top in _TRUSTED or (top == "transformers" and not rest.startswith("models."))


def _is_readable(cls: type) -> bool:
    """Whether the source of every method of a class is there; torch's and Python's own need no reading."""
    own = [base for base in cls.__mro__ if not _is_machinery(base)]
    made = (base for base in own if any(inspect.isfunction(value) for value in vars(base).values()))
    return all(base.__qualname__ in _classes(base.__module__) for base in made)


def _is_own(node: ast.AST, name: re.Pattern[str]) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and name.match(node.attr) is not None
    )


def _only_looks_up(cls: type, node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a number only selects a cache slot or a config's entry, is passed on, or is part of a message."""
    above = parents.get(node)
    if isinstance(above, ast.keyword):
        if above.arg is not None and POSITION.match(above.arg):
            return True  # the callee is read, too
        above = parents.get(above)
    if isinstance(above, ast.Tuple) and isinstance(parents.get(above), ast.Subscript):
        node, above = above, parents[above]  # one of several indices
    if isinstance(above, ast.Subscript) and above.slice is node:
        return _SLOTS.search(ast.unparse(above.value)) is not None
    if isinstance(above, ast.Call):
        called = ast.unparse(above.func)
        if _is_own(above.func, _ANY):
            method = getattr(cls, called.removeprefix("self."), None)  # none: a module inside, whose class is read
            return method is None or any(POSITION.match(name) for name in inspect.signature(method).parameters)
        return _SLOTS.search(called) is not None or called in _BLOCK_NAMES
    if isinstance(above, ast.Compare):
        return all(isinstance(other, ast.Constant) and other.value is None for other in above.comparators)
    return isinstance(above, ast.FormattedValue)
