"""The divergence of the model's distribution from a teacher's."""

from typing import TYPE_CHECKING, Any, Self

from inheritune.losses.base import LogitsLoss, LossSetup, Ramp, TeacherNeeds
from inheritune.losses.distillation import DISTILLATION, Distillation

if TYPE_CHECKING:
    import torch

    from inheritune.losses.functional import Distribution


class KullbackLeibler(LogitsLoss):
    """t^2 x KL(teacher || model) at temperature t. Source: Hinton, Vinyals and Dean, Distilling the knowledge in a
    neural network, 2015; the factor t^2 keeps the gradient's size at every t.
    """

    name = "kl"
    key = DISTILLATION

    def __init__(self, settings: Distillation) -> None:
        share, factor = settings.student, settings.temperature**2
        super().__init__(share.map(lambda one: (1 - one) * factor) if isinstance(share, Ramp) else (1 - share) * factor)
        self.temperature, self.text_weight = settings.temperature, share
        self.needs = TeacherNeeds(settings.temperature, settings.top_k)

    @classmethod
    def build(cls, settings: Distillation | None, setup: LossSetup) -> Self | None:
        """None without a `distillation`, and where the text has the whole share."""
        return None if settings is None or settings.student == 1 else cls(settings)

    @classmethod
    def check(cls, settings: Distillation | None, train: Any) -> None:
        """Stored outputs need fixed sequences."""
        if settings is not None and settings.outputs == "stored" and train.sampling == "with replacement":
            raise ValueError(
                "distillation.outputs: stored outputs belong to fixed sequences, and with replacement sequences"
                " begin anywhere; give online, or sampling: shuffled"
            )

    @classmethod
    def asks_teacher(cls, settings: Distillation | None) -> bool:
        """Where there is a `distillation`."""
        return settings is not None

    def of_logits(
        self, logits_NV: "torch.Tensor", targets_N: "torch.Tensor", teacher: "Distribution | None"
    ) -> "torch.Tensor":
        """The sum of the divergences of all tokens whose targets count."""
        import torch

        from inheritune.losses.functional import divergences

        assert teacher is not None
        return torch.where(targets_N >= 0, divergences(logits_NV, teacher, self.temperature), 0.0).sum()
