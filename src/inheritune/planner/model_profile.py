"""What a model is made of, from its config: tensors, kinds of blocks, what a step of it takes. No weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from inheritune.arch import (
    build_skeleton,
    compensated_attributes,
    constant_inits,
    differences,
    find_structure,
    packed_dimension,
    plain_linear,
    shares_of_tokens,
)

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from inheritune.planner.fake_step import FakeStep, StepUse


@dataclass(frozen=True)
class Part:
    """One parameter tensor of a model: `place` is its block's place, None outside; `share` that of the tokens that are
    multiplied with it.
    """

    size: int
    dimensions: int
    place: int | None
    share: float
    is_embedding: bool = False


class ModelProfile:
    """The model of a config, and of what is made of its blocks. Building it takes some milliseconds a block.

    `unfollowed` says why the model's code cannot be run without values, once that is known.
    """

    def __init__(self, config: "PretrainedConfig", trust_remote_code: bool = False) -> None:
        """Raises InputError when transformers cannot build such a model, or its blocks are not one list."""
        from torch import nn

        self.config, self._trust = config, trust_remote_code
        model = build_skeleton(config, trust_remote_code)
        self._structure = find_structure(model)
        self._shares = shares_of_tokens(model)
        self._embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        self._blocks = list(model.get_submodule(self._structure.blocks))
        self._inside = [dict(block.named_parameters()) for block in self._blocks]
        of_blocks = {id(tensor) for tensors in self._inside for tensor in tensors.values()}
        self._outside = {name: p for name, p in model.named_parameters() if id(p) not in of_blocks}
        self._model = model  # so that no id is used twice
        self._fake_steps: dict[bool, FakeStep] = {}
        self._uses: dict[tuple[str, bool, int, int], StepUse] = {}
        self.unfollowed: str | None = None

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return len(self._blocks)

    @property
    def head(self) -> "torch.nn.Linear | None":
        """The linear layer that makes logits of the final hidden states; None where no such layer does it alone."""
        return plain_linear(self._model)

    @property
    def head_size(self) -> int:
        """The number of parameters of `head`; 0 without one."""
        return 0 if self.head is None else sum(parameter.numel() for parameter in self.head.parameters())

    def size(self, kept: Sequence[int] | None = None) -> int:
        """The number of parameters of a model of the blocks `kept` (default: all)."""
        return sum(part.size for part in self.parts(kept))

    def parts(self, kept: Sequence[int] | None = None) -> list[Part]:
        """The parameters of a model of the blocks `kept` (default: all) in this order, a tied tensor once."""
        kept = range(self.depth) if kept is None else kept
        parts = []
        for name, tensor in self._outside.items():
            packed = packed_dimension(name) is not None and list(kept) != list(range(self.depth))
            size = tensor.numel() * len(kept) // self.depth if packed else tensor.numel()
            parts.append(self._part(tensor, size, None))
        seen: set[int] = set()
        for place, block in enumerate(kept):
            for tensor in self._inside[block].values():
                if id(tensor) not in seen:
                    parts.append(self._part(tensor, tensor.numel(), place))
                if id(tensor) in self._lent:
                    seen.add(id(tensor))
            for constant in constant_inits(self.config, block, place, len(kept)):
                tensor = next(tensors[constant] for tensors in self._inside if constant in tensors)
                parts.append(self._part(tensor, tensor.numel(), place))
        return parts

    def _part(self, tensor: "torch.Tensor", size: int, place: int | None) -> Part:
        return Part(size, tensor.dim(), place, self._shares[id(tensor)], id(tensor) in self._embeddings)

    @cached_property
    def _lent(self) -> set[int]:
        """Parameters that several blocks share."""
        every = [id(tensor) for tensors in self._inside for tensor in tensors.values()]
        return {key for key in every if every.count(key) > 1} if len(set(every)) < len(every) else set()

    @cached_property
    def kinds(self) -> list[int]:
        """For each block the number of the first block that is like it but for its weights."""
        settled = compensated_attributes(self.config)
        firsts: list[int] = []
        kinds = []
        for number, block in enumerate(self._blocks):
            kind = next((f for f in firsts if not differences(self._blocks[f], block, settled)), number)
            if kind == number:
                firsts.append(number)
            kinds.append(kind)
        return kinds

    def use(self, precision: str, sharded: bool, sequences: int, length: int) -> "StepUse | None":
        """What a micro-batch takes in this precision (`bfloat16` or `float32`): see `fake_step`.

        None where the model's code looks at values in a way that cannot be answered for it (see `unfollowed`).
        """
        from inheritune.planner.fake_step import FakeStep

        if self.unfollowed is not None:
            return None
        half = sharded and precision != "float32"
        key = (precision, half, sequences, length)
        try:
            if half not in self._fake_steps:
                self._fake_steps[half] = FakeStep(self.config, self.kinds, half=half, trust_remote_code=self._trust)
            if key not in self._uses:
                self._uses[key] = self._fake_steps[half].run(sequences, length, precision)
        except Exception as error:  # whatever an architecture's code stumbles over
            self.unfollowed = " ".join(f"{type(error).__name__}: {error}".split())[:120]
            return None
        return self._uses[key]
