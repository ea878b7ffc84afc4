"""The distance of the model's hidden states from a teacher's."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Self

from inheritune.errors import InputError
from inheritune.losses.base import BatchLoss, LossInputs, LossSetup, TeacherNeeds
from inheritune.losses.distillation import DISTILLATION, Distillation, HiddenStates

if TYPE_CHECKING:
    import torch

_PLACE = "train.distillation.hidden_states"
_SMALLEST = 1e-16  # square of the length below which a state has no direction


class HiddenStatesDistance(BatchLoss):
    """The mean distance over blocks of a state of the model from the teacher's state at the end of the gap behind it.
    `pairs` has the teacher's block for each of the model's.
    """

    name = "hidden_states"
    key = DISTILLATION

    def __init__(self, settings: HiddenStates, pairs: dict[int, int]) -> None:
        super().__init__(settings.weight)
        self._is_cosine, self._pairs = settings.distance == "cosine", pairs
        self.blocks, self.needs = frozenset(pairs), TeacherNeeds(hidden_states=frozenset(pairs.values()))

    @classmethod
    def build(cls, settings: Distillation | None, setup: LossSetup) -> Self | None:
        """None without `hidden_states`. Raises InputError where the states of model and teacher do not match."""
        if settings is None or settings.hidden_states is None:
            return None
        return cls(settings.hidden_states, _pairs(settings.hidden_states, setup))

    def of_batch(self, inputs: LossInputs) -> "torch.Tensor":
        """The sum of the distances of all tokens whose targets count."""
        import torch

        distances = [
            self._distances(inputs.hidden_states[own], inputs.teacher_hidden_states[teacher])
            for own, teacher in self._pairs.items()
        ]
        return torch.where(inputs.targets_N >= 0, torch.stack(distances).mean(dim=0), 0.0).sum()

    def _distances(self, own_ND: "torch.Tensor", teacher_ND: "torch.Tensor") -> "torch.Tensor":
        """The distance of each token (N,), in float32."""
        own_ND, teacher_ND = own_ND.float(), teacher_ND.float()
        teacher_N = teacher_ND.square().sum(dim=1).clamp(min=_SMALLEST)
        if not self._is_cosine:
            return (own_ND - teacher_ND).square().sum(dim=1) / teacher_N
        own_N = own_ND.square().sum(dim=1).clamp(min=_SMALLEST)
        return 1 - (own_ND * teacher_ND).sum(dim=1) * own_N.rsqrt() * teacher_N.rsqrt()


def _pairs(settings: HiddenStates, setup: LossSetup) -> dict[int, int]:
    """The model's blocks and the teacher's that they learn from."""
    model, teacher = setup.config, setup.teacher_config
    assert model is not None
    assert teacher is not None
    if model.hidden_size != teacher.hidden_size:
        what = f"the model's hidden size is {model.hidden_size:,}, the teacher's {teacher.hidden_size:,}"
        raise InputError(_PLACE, what, "give a teacher of the model's width, or remove hidden_states")
    depth: int = teacher.num_hidden_layers
    kept = setup.blocks
    if kept is None and model.num_hidden_layers == depth:
        kept = range(depth)
    if kept is None or not _is_part(kept, depth):
        what = f"which of the teacher's {depth} blocks the model's {model.num_hidden_layers} are is not known"
        if kept is not None:
            what = f"the model's blocks {list(kept)} are not some of the teacher's {depth} in their order"
        remedy = "give a teacher that the blocks come from, or one with as many blocks, or remove hidden_states"
        raise InputError(_PLACE, what, remedy)
    pairs = settings.pairs(kept, depth)
    if not pairs:
        what = f"gaps, and no block of the teacher's {depth} was dropped behind any of the model's {list(kept)}"
        raise InputError(f"{_PLACE}.blocks", what, "give all")
    return pairs


def _is_part(kept: Sequence[int], depth: int) -> bool:
    return kept[-1] < depth and all(one < other for one, other in pairwise(kept))
