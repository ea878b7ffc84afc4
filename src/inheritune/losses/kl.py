"""Distillation: the divergence of the model's distribution from a teacher's."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, Tag, model_validator

from inheritune.losses.base import Key, LogitsLoss, LossSetup, NumberOrRamp, Ramp, TeacherNeeds
from inheritune.settings import Part

if TYPE_CHECKING:
    import torch

    from inheritune.losses.functional import Distribution

_Share = Annotated[float, Field(ge=0, lt=1)]


class Distillation(Part):
    """Learning from a teacher's distribution besides the text: the loss is student x CE + (1 - student) x t^2 x KL. CE
    is the cross-entropy of the text, KL the divergence of the model's distribution from the teacher's, both at
    temperature t. Defaults follow the paper. In `run` the reference is the teacher.
    """

    student: Annotated[Annotated[_Share, Tag("float")] | Annotated[Ramp, Tag("Ramp")], NumberOrRamp] = 0.6
    """The cross-entropy's share of the loss; the rest is the teacher's. A mapping changes it over the training:
    {start: 1, end: 0, over: 50%}."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """t, by which the logits of both are divided for the KL. The KL is multiplied by t^2, so that its gradient stays of
    the same size at every temperature (Hinton, Vinyals and Dean, 2015)."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """How many of the teacher's most probable tokens are told apart; all others count as one, with the sum of their
    probabilities. null: the whole vocabulary."""
    outputs: Literal["auto", "stored", "online"] = "auto"
    """stored: the teacher's outputs for all training sequences are computed once, and read by every training of the
    run. online: the teacher passes every batch anew. auto: whichever takes less time by an estimate that is printed."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if isinstance(self.student, Ramp):
            if max(self.student.start, self.student.end) > 1:
                raise ValueError("student: a share is at most 1; give start and end from 0 to 1")
            if self.student.start == self.student.end == 1:
                raise ValueError("student: the teacher would have no share; give a start or an end below 1")
        return self


class KullbackLeibler(LogitsLoss):
    """t^2 x KL(teacher || model) at temperature t. Source: Hinton, Vinyals and Dean, Distilling the knowledge in a
    neural network, 2015; the factor t^2 keeps the gradient's size at every t.
    """

    name = "kl"
    key = Key(
        "distillation", Distillation | None, None,
        "Learn from a teacher too; {} takes the paper's settings. null: from the text alone.",
    )  # fmt: skip

    def __init__(self, settings: Distillation) -> None:
        share, factor = settings.student, settings.temperature**2
        super().__init__(share.map(lambda one: (1 - one) * factor) if isinstance(share, Ramp) else (1 - share) * factor)
        self.temperature, self.text_weight = settings.temperature, share
        self.needs = TeacherNeeds(settings.temperature, settings.top_k)

    @classmethod
    def build(cls, settings: Distillation | None, setup: LossSetup) -> Self | None:
        """None without a `distillation`."""
        return None if settings is None else cls(settings)

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
