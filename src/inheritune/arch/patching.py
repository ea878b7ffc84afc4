"""Changing what a model's blocks compute: the one place where forwards are replaced and restored."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Forward = Callable[..., Any]


def replace_forwards(
    blocks: "Iterable[torch.nn.Module]", new: "Callable[[torch.nn.Module, Forward], Forward]"
) -> Callable[[], None]:
    """Give each block, wherever it is used, the forward `new(block, its own)`; returns a function that undoes it."""
    before = {block: block.__dict__.get("forward") for block in dict.fromkeys(blocks)}
    for block in before:
        block.forward = new(block, block.forward)

    def undo() -> None:
        for block, forward in before.items():
            del block.forward
            if forward is not None:
                block.forward = forward

    return undo


@contextmanager
def replaced_forwards(blocks: "Sequence[torch.nn.Module]", new: Callable[[int, Forward], Forward]) -> Iterator[None]:
    """Give each block the forward `new(place, its own)`, with its place in the list, inside a `with` statement.

    A block at several places has the forward of each place in turn, so a pass has to run all of them.
    """
    places: dict[torch.nn.Module, list[int]] = {}
    for place, block in enumerate(blocks):
        places.setdefault(block, []).append(place)

    def in_turn(block: "torch.nn.Module", own: Forward) -> Forward:
        turn = itertools.cycle([new(place, own) for place in places[block]])
        return lambda *args, **kwargs: next(turn)(*args, **kwargs)

    undo = replace_forwards(blocks, in_turn)
    try:
        yield
    finally:
        undo()


def hidden_of(args: Any, kwargs: Any = None) -> "torch.Tensor":
    """The hidden states in a block's inputs, or (`args` alone) in its output: the first tensor."""
    import torch
    from torch.utils._pytree import tree_leaves

    first: torch.Tensor = next(
        filter(torch.is_tensor, tree_leaves(((kwargs or {}).get("hidden_states"), args, kwargs)))
    )
    return first


def with_hidden(output: Any, hidden: "torch.Tensor") -> Any:
    """A block's output with its hidden states replaced."""
    import torch

    if torch.is_tensor(output):
        return hidden
    own = hidden_of(output)
    return type(output)(hidden if value is own else value for value in output)


def fade_blocks(blocks: "Iterable[torch.nn.Module]", strength: "torch.Tensor") -> Callable[[], None]:
    """From now on scale what the blocks add to their hidden states by `strength`, a tensor with one value.

    With 1 the blocks compute what they did, with 0 they return their input. Returns a function that undoes it.
    """
    import torch

    def new(block: "torch.nn.Module", own: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            before, output = hidden_of(args, kwargs), own(*args, **kwargs)
            after = hidden_of(output)
            return with_hidden(output, torch.lerp(before.to(after.dtype), after, strength.to(after.dtype)))

        return run

    return replace_forwards(blocks, new)


def keep_outputs(
    blocks: "Sequence[torch.nn.Module]", numbers: Iterable[int], kept: "dict[int, torch.Tensor]"
) -> Callable[[], None]:
    """From now on write the hidden states (B, T, D) that the blocks `numbers` return into `kept`.

    Returns a function that undoes it.
    """
    places = {blocks[number]: number for number in numbers}

    def new(block: "torch.nn.Module", own: Forward) -> Forward:
        def run(*args: Any, **kwargs: Any) -> Any:
            output = own(*args, **kwargs)
            kept[places[block]] = hidden_of(output)
            return output

        return run

    return replace_forwards(places, new)
