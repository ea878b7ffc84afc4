"""Blocks of the reference with their weights (arXiv 2404.08634 v4, algorithm 1 and table 5)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator
from typing_extensions import override

from inheritune.experiment.methods.base import LAYERS, Blocks, Depth, Method, Origin, Stage
from inheritune.experiment.rounds import is_measured
from inheritune.experiment.stage import Weights
from inheritune.inheritance import count_layers, replace_budget, select_blocks
from inheritune.recipe import Budget, Choice, Inherit, Submodules
from inheritune.recipe.budget import check_budget
from inheritune.recipe.target import Refit, check_refit, check_widths

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class InheritMethod(Budget, Method):
    """The paper's method: blocks of the reference with their weights, or with some of their parts."""

    kind: Literal["inherit"] = "inherit"
    """The method's name."""
    layers: Blocks | None = None
    """How many blocks, or a list of them such as [0-11, 24, 25]. Default: the suite's `layers`."""
    choose: Choice = "first"
    """Which blocks when `layers` is a number, as `inherit.choose` of a recipe; auto and the other measured choices look
    at the source at work on the arm's training text."""
    submodules: Submodules = "all"
    """Which weights are inherited, as `inherit.submodules` of a recipe."""
    refit: Refit = None
    """From how many training tokens the blocks are refitted before training, as `inherit.refit` of a recipe."""
    of: Origin = None
    """Where the blocks come from: an arm of the suite by its name, else a hub id, a folder or a .gguf file. Default:
    the reference."""

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        check_refit(self.refit, self.submodules, self.choose)
        check_widths(self, self.submodules)
        check_budget(self, self.layers, self.submodules, self.choose)
        if isinstance(self.layers, list) and self.choose != "first":
            raise ValueError(f"choose: {self.choose} goes with a number or a fraction of blocks, not with a list")
        return self

    @override
    def depth(self, default: Depth, total: int) -> int:
        wanted = default if self.layers is None else self.layers
        return count_layers(wanted, total, LAYERS, most=(1 + (self.choose == "stacked")) * total)

    def _asked(self) -> Inherit:
        keys = Budget.model_fields.keys()
        return Inherit(choose=self.choose, **{key: getattr(self, key) for key in keys})

    @override
    def estimated(self, source: "PretrainedConfig", trust_remote_code: bool = False) -> Self:
        return self.settled(replace_budget(source, self._asked(), trust_remote_code))

    @override
    def settled(self, decided: Inherit) -> Self:
        if not self.has_budget:
            return self
        numbers = {key: getattr(decided, key) for key in ("layers", "heads", "mlp", "hidden")}
        return self.model_copy(update={"size": None, "speed": None, **numbers})

    @override
    def measured(self, depth: int) -> Inherit | None:
        if self.has_budget:
            return self._asked()
        spec = Inherit(layers=self.layers if isinstance(self.layers, list) else depth, choose=self.choose)
        return spec if is_measured(spec) else None

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        is_provisional = self.measured(depth) is not None and dropped is None
        if is_provisional:
            blocks = list(range(depth))
        else:
            layers = self.layers if isinstance(self.layers, list) else depth
            blocks = select_blocks(layers, self.choose, total, LAYERS, dropped)
        weights: Weights = "random" if self.submodules == "none" else "inherit"
        return [
            Stage(
                blocks, weights, self.submodules, self.only_widths, is_provisional=is_provisional, refit=self.refit
            )
        ]  # fmt: skip
