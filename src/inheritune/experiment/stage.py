"""A stage: one training of an arm, as a method describes it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from inheritune.arch import layer_count
from inheritune.inheritance import TargetSpec, resolve
from inheritune.recipe import ChosenWidths, Inherit, Size, Submodules

if TYPE_CHECKING:
    from transformers import PretrainedConfig


Weights = Literal["inherit", "random", "whole"]


@dataclass(frozen=True)
class Stage:
    """One training of an arm, before anything is read.

    `weights` says how the model gets its weights. `inherit`: the source's `blocks` with the parts `submodules`.
    `random`: all random, in the shape of these blocks. `whole`: the source as it is. The source is the arm's own, or
    with `after_previous` the model that the stage before has trained; `origins` are the blocks of the arm's source that
    `blocks` were there, where that is known. With `insert_trained`, the blocks that the stage
    before has trained replace those of the source, without a change of its function where `function_preserving`.

    `name` is added to the arm's name, `folder` is relative to the arm's. `share` is the part of the arm's steps; None:
    all of them. `is_certain` is False where the stage depends on the results before it. `is_provisional` is True until
    a measured choice has picked the blocks. `refit`: from how many training tokens the blocks are refitted. `may_stop`:
    whether the training ends where a forecast says that it cannot match. `fading` are the model's blocks, by their
    places in `blocks`, whose part falls to nothing over the training.
    """

    blocks: Sequence[int]
    weights: Weights = "inherit"
    submodules: Submodules = "all"
    widths: ChosenWidths = field(default_factory=ChosenWidths)
    name: str = ""
    folder: str = "."
    after_previous: bool = False
    insert_trained: bool = False
    function_preserving: bool = False
    share: float | None = None
    is_certain: bool = True
    is_provisional: bool = False
    refit: Size | None = None
    may_stop: bool = False
    origins: Sequence[int] | None = None
    fading: Sequence[int] = ()

    def spec(self, source: "PretrainedConfig") -> TargetSpec:
        """The target of a source with this config. Raises InputError for widths that the config cannot have."""
        return resolve(Inherit(submodules=self.submodules, **self.widths.model_dump()), source, self.blocks)

    def teacher_blocks(self, source: "PretrainedConfig", teacher: "PretrainedConfig") -> Sequence[int] | None:
        """The blocks of a teacher that the target's blocks come from, for the arm's `source`; None where that has other
        blocks.
        """
        if layer_count(source) != layer_count(teacher):
            return None
        return self.origins if self.after_previous else self.blocks
