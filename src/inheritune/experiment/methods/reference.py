"""The reference, trained further."""

from collections.abc import Sequence
from typing import Literal

from typing_extensions import override

from inheritune.experiment.methods.base import Method, Stage, target_spec


class ReferenceMethod(Method):
    """The reference itself, trained on under the arms' budget."""

    kind: Literal["reference"] = "reference"
    """The method's name."""

    @override
    def stages(self, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[Stage]:
        return [Stage(target_spec(list(range(total))), "whole")]
