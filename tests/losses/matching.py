"""A loss for tests: the model's hidden states, through a linear map of its own, should be the teacher's."""

import torch

from inheritune.losses import BatchLoss, LossInputs, LossSetup, TeacherNeeds
from inheritune.losses.base import Key


class Matching(BatchLoss):
    """The squared distance of the mapped hidden states from the teacher's, per predicted token."""

    name = "matching"
    key = Key("matching", bool, False, "Learn the teacher's hidden states too.")

    def __init__(self, own: int, teacher: int, block: int = 0, teacher_block: int = 1, weight: float = 0.5) -> None:
        super().__init__(weight)
        self.blocks, self.needs = frozenset({block}), TeacherNeeds(hidden_states=frozenset({teacher_block}))
        self.block, self.teacher_block = block, teacher_block
        self.module = torch.nn.Linear(own, teacher, bias=False)
        with torch.no_grad():
            self.module.weight.copy_(torch.eye(teacher, own))

    @classmethod
    def build(cls, settings: bool, setup: LossSetup) -> "Matching | None":
        if not settings:
            return None
        assert setup.config is not None
        assert setup.teacher_config is not None
        return cls(setup.config.hidden_size, setup.teacher_config.hidden_size)

    @classmethod
    def asks_teacher(cls, settings: bool) -> bool:
        return settings

    def of_batch(self, inputs: LossInputs) -> torch.Tensor:
        mapped_ND = self.module(inputs.hidden_states[self.block])
        apart_N = (mapped_ND - inputs.teacher_hidden_states[self.teacher_block]).float().square().sum(dim=1)
        return torch.where(inputs.targets_N >= 0, apart_N, 0.0).sum()
