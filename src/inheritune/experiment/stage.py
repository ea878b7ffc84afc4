"""A stage: one training of an arm, as a method describes it."""

from dataclasses import dataclass
from typing import Literal

from inheritune.recipe import Inherit


@dataclass(frozen=True)
class Stage:
    """One training of an arm, before anything is read.

    `weights` says how the model gets its weights. `inherit`: the blocks of `spec` with the parts it names. `random`:
    all random, in the shape of `spec`. `whole`: the source as it is. The source is the arm's own, or with
    `after_previous` the model that the stage before has trained. With `insert_trained`, the blocks that the stage
    before has trained replace those of the source.

    `name` is added to the arm's name, `folder` is relative to the arm's. `share` is the part of the arm's steps; None:
    all of them. `is_certain` is False where the stage depends on the results before it, `is_provisional` where the
    blocks are chosen by measuring and have not been chosen yet.
    """

    spec: Inherit
    weights: Literal["inherit", "random", "whole"] = "inherit"
    name: str = ""
    folder: str = "."
    after_previous: bool = False
    insert_trained: bool = False
    function_preserving: bool = False
    share: float | None = None
    is_certain: bool = True
    is_provisional: bool = False

    @property
    def blocks(self) -> list[int]:
        """The numbers of the source's blocks."""
        assert isinstance(self.spec.layers, list)
        return self.spec.layers


def target_spec(blocks: list[int], submodules: object = "all", width: str = "full") -> Inherit:
    """The spec of a target with these blocks, which may repeat."""
    return Inherit(submodules=submodules, width=width).model_copy(update={"layers": blocks, "choose": "first"})
