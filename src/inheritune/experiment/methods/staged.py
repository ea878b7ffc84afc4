"""Blocks removed in stages within one budget, so that each stage keeps what recovery learned in the one before."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from typing_extensions import override

from inheritune.errors import InputError
from inheritune.experiment.methods.base import LAYERS, Blocks, Depth, Method, Origin, Stage
from inheritune.experiment.rounds import is_measured
from inheritune.inheritance import count_layers, select_blocks
from inheritune.recipe import Choice, Inherit

_THROUGH = "start.through"


class StagedMethod(Method):
    """Drop some blocks, train, drop more, train again, within the arm's length. All stages count."""

    kind: Literal["staged"] = "staged"
    """The method's name."""
    layers: Blocks | None = None
    """How many blocks there are in the end, or a list of them such as [0-11, 24, 25]. Default: the suite's `layers`."""
    choose: Choice = "auto"
    """Which blocks when `layers` is a number, as `inherit.choose` of a recipe. The same order decides on the way."""
    through: Annotated[list[Blocks], Field(min_length=1)] = [0.75]
    """The numbers of blocks on the way, falling (a number, a fraction of the source's, `all`), or lists of them where
    `layers` is a list."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """The share of the arm's steps before the last stage, in equal parts, each rounded down to whole steps."""
    anneal: bool = False
    """Fade out the blocks that the next stage drops: what they add to the hidden states falls linearly over the stage,
    from all of it to nothing. With `through: [all]`, blocks are only faded out, never dropped at once. Source: Xu et
    al., BERT-of-Theseus, 2020, where blocks are replaced at random instead."""
    of: Origin = None
    """Where the blocks come from, as `of` of `inherit`."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        listed = [isinstance(one, list) for one in (self.layers, *self.through)]
        if listed[0] and "choose" not in self.model_fields_set:
            self.__dict__["choose"] = "first"  # the list is the choice
        if any(listed[1:]) and not listed[0]:
            raise ValueError("through: a list of blocks goes with a list in layers; give numbers of blocks")
        if self.choose == "stacked" or (listed[0] and self.choose != "first"):
            raise ValueError(f"choose: {self.choose} does not go with stages; leave it out, or give a number of layers")
        return self

    @override
    def depth(self, default: Depth, total: int) -> int:
        return count_layers(default if self.layers is None else self.layers, total, LAYERS)

    @override
    def measured(self, depth: int) -> Inherit | None:
        spec = Inherit(layers=self.layers if isinstance(self.layers, list) else depth, choose=self.choose)
        return spec if is_measured(spec) else None

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        is_provisional = self.measured(depth) is not None and dropped is None
        kept = []
        for wanted in self.through:
            layers = wanted if isinstance(wanted, list) else count_layers(wanted, total, _THROUGH)
            kept.append(self._blocks(layers, total, _THROUGH, dropped, is_provisional))
        final = self.layers if isinstance(self.layers, list) else depth
        kept.append(self._blocks(final, total, LAYERS, dropped, is_provisional))
        for before, after in pairwise(kept):
            if len(after) >= len(before) or not set(after) <= set(before):
                what = f"{len(after)} blocks {after} follow {len(before)} blocks {before}"
                raise InputError(_THROUGH, what, "give falling numbers, all above that of layers, of nested blocks")
        parts = [self.share / len(self.through)] * len(self.through) + [1 - self.share]
        return [
            Stage(
                blocks if number == 0 else [kept[number - 1].index(one) for one in blocks],
                name="" if number == len(parts) - 1 else f"{len(blocks)} blocks",
                folder="." if number == len(parts) - 1 else f"{len(blocks)}-blocks",
                after_previous=number > 0, share=part, is_provisional=is_provisional, origins=blocks,
                fading=[place for place, one in enumerate(blocks) if self.anneal and one not in following],
            )
            for number, (blocks, part, following) in enumerate(zip(kept, parts, [*kept[1:], kept[-1]], strict=True))
        ]  # fmt: skip

    def _blocks(
        self, layers: int | list[int], total: int, place: str, dropped: Sequence[int] | None, is_provisional: bool
    ) -> list[int]:
        if is_provisional:
            return list(range(layers)) if isinstance(layers, int) else layers
        choose = "first" if isinstance(layers, list) else self.choose
        return select_blocks(layers, choose, total, place, dropped)
