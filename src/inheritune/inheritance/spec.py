"""What a target takes of its source, decided and as indices."""

from dataclasses import dataclass, replace
from typing import Literal

from inheritune.arch import Selection

FULL_WIDTH = Selection()


@dataclass(frozen=True)
class TargetSpec:
    """A target, decided: which blocks of its source, which part of their width, and whose weights.

    Raises ValueError without blocks, for negative ones, and for a `width` that selects blocks.
    """

    blocks: tuple[int, ...]
    """The source's blocks at the target's places. Blocks may repeat (stacking)."""
    submodules: Literal["all", "none"] | tuple[str, ...] = "all"
    """Whose weights are copied: all, none, or roles such as attention and mlp. The others are initialised anew."""
    width: Selection = FULL_WIDTH
    """The heads, MLP neurons and hidden channels that every block keeps; numbers are the source's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if self.width.blocks is not None:
            raise ValueError("width: blocks are selected by `blocks`")
        _ = self.selection  # which checks the blocks

    @property
    def selection(self) -> Selection:
        """Blocks and width as one selection."""
        return replace(self.width, blocks=self.blocks)
