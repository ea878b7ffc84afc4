"""What every method has: its settings, the blocks it takes, and the trainings it is made of.

A method says how an arm of a suite gets its weights and in how many trainings (stages). Each is a subclass of `Method`
in a file of this folder.
"""

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field
from typing_extensions import override

from inheritune.errors import InputError
from inheritune.experiment.rounds import has_reached
from inheritune.experiment.stage import Stage as Stage
from inheritune.inheritance import count_layers
from inheritune.recipe import Inherit
from inheritune.recipe.target import parse_layers
from inheritune.results import RoundResult
from inheritune.settings.part import Part

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LAYERS = "start.layers"  # the key that errors about a number of blocks name
Origin = Annotated[str, Field(min_length=1)] | None  # another arm or model
Count = Annotated[int | float, BeforeValidator(parse_layers)]  # how many blocks: a number, or a share such as 1/2
Blocks = Annotated[int | float | list[int], BeforeValidator(parse_layers)]  # the same, or which ones
Depth = int | float | list[int]  # what `Blocks` has read


class Method(Part):
    """How a target starts and how it is trained. Subclasses give `stages` and what differs from one plain training."""

    kind: str
    is_rounds: ClassVar[bool] = False
    """Whether it trains as many stages as it needs, so that no budget can be fixed."""
    is_sized_by_reference: ClassVar[bool] = False
    """Whether a share of the blocks is a share of the reference's, whatever the source is."""

    @property
    def origin(self) -> str | None:
        """The arm or model that the weights come from; None: the reference."""
        return getattr(self, "of", None)

    @property
    def counts_source(self) -> bool:
        """Whether the training of the arm `origin` is part of this arm's budget."""
        return False

    def depth(self, default: Depth, total: int) -> int:
        """The number of blocks of the (first) target, for a source of `total` blocks; `default` is the suite's.

        Raises InputError for more blocks than the method can make.
        """
        return total

    def measured(self, depth: int) -> Inherit | None:
        """What a choice of blocks or of a shape is asked for; None where both are known without one."""
        return None

    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        """The trainings, for a source of `total` blocks; a method with rounds may stop after any of them.

        `dropped` is the order in which a measured choice drops blocks. Before the choice is made, the first blocks
        stand in for it. Raises InputError for blocks that the source does not have.
        """
        raise NotImplementedError

    def estimated(self, source: "PretrainedConfig", trust_remote_code: bool = False) -> Self:
        """The method with a number of blocks in place of a size or a speed, as far as the source's config tells."""
        return self

    def settled(self, decided: Inherit) -> Self:
        """The method with the numbers that were `decided` on for what `measured` asked."""
        return self

    def check(self, arms: Container[str], allow_unequal: str | None) -> None:
        """Raise InputError for settings that the suite's other arms rule out."""
        if self.is_rounds and allow_unequal is None:
            what = "growth trains as many rounds as it needs, so its budget differs from the others'"
            raise InputError("start", what, "say so in allow_unequal")

    def continues(self, results: Sequence[RoundResult], stages: int) -> bool:
        """Whether another of `stages` stages follows those with these results."""
        return len(results) < stages

    def has_reached(self, result: RoundResult) -> bool:
        """Whether a stage's result is as good as the reference."""
        return has_reached(result, None)

    def result(self, results: Sequence[RoundResult]) -> RoundResult:
        """Which of the trained stages is the arm's result."""
        return results[-1]

    def describe(self, depth: int, total: int) -> dict[str, Any]:
        """What the target starts with, as JSON; equal for methods and settings that mean the same.

        One plain stage says it all, whatever the method is. Anything else is told by the method's settings.
        """
        stages = self.stages(depth, total)
        last = stages[-1]
        plain = Stage(last.blocks, last.weights, last.submodules, last.widths)
        if stages == [plain] and plain.weights != "whole" and not self.counts_source:
            submodules = "none" if plain.weights == "random" else plain.submodules
            start = {"of": self.origin, "layers": list(plain.blocks), "submodules": submodules}
            return start | {"widths": plain.widths.widths}
        settings: dict[str, Any] = self.model_dump(mode="json")
        return settings | ({"layers": depth} if "layers" in settings else {})


class SizedMethod(Method):
    """A method whose number of blocks can be chosen."""

    max_depth: ClassVar[int] = 1
    """The deepest target, in depths of its source."""

    layers: Count | None = None
    """How many blocks: a number, a fraction of the reference's, `half`, `all`. Default: the suite's `layers`."""

    @override
    def depth(self, default: Depth, total: int) -> int:
        wanted = default if self.layers is None else self.layers
        return count_layers(wanted, total, LAYERS, most=self.max_depth * total)


def repeated(depth: int, total: int) -> list[int]:
    """Blocks for a config of `depth` blocks in which nothing is inherited; they repeat where the source has fewer."""
    return [block % total for block in range(depth)]
