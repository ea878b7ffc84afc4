"""The settings of what is learnt from a teacher. `kl` and `hidden_states` are the losses that they switch on."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from inheritune.losses.base import Key, NumberOrRamp, Ramp, Weight
from inheritune.settings import Part

_Share = Annotated[float, Field(ge=0, le=1)]


class HiddenStates(Part):
    """Learning a teacher's hidden states. The output of each of the model's blocks is compared with that of the
    teacher's block just before the next kept one, so it learns what the dropped blocks behind it did. The last one
    learns the output of the teacher's last block. Model and teacher have the same hidden size.
    """

    weight: Weight
    """The weight of the mean distance, over blocks and tokens, in the loss. A mapping changes it over the training:
    {start: 10, end: 0, over: 50%}."""
    distance: Literal["cosine", "mse"] = "cosine"
    """What is averaged over tokens. cosine: 1 - the cosine of the two states. mse: their mean squared difference,
    divided by the mean square of the teacher's state."""
    blocks: Literal["all", "gaps"] = "all"
    """all: every block. gaps: those blocks behind which blocks were dropped."""

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        highest = max(self.weight.start, self.weight.end) if isinstance(self.weight, Ramp) else self.weight
        if highest == 0:
            raise ValueError("weight: with 0 nothing is learnt from hidden states; give more, or remove hidden_states")
        return self

    def pairs(self, kept: Sequence[int], depth: int) -> dict[int, int]:
        """For blocks of a model that was made of the blocks `kept` of `depth`: the teacher's block to compare with."""
        ends = [following - 1 for following in [*kept[1:], depth]]
        return {place: end for place, end in enumerate(ends) if self.blocks == "all" or end > kept[place]}


class Distillation(Part):
    """Learning from a teacher's distribution besides the text: the loss is student x CE + (1 - student) x t^2 x KL. CE
    is the cross-entropy of the text, KL the divergence of the model's distribution from the teacher's, both at
    temperature t. `hidden_states` adds a term. Defaults follow the paper. In `run` the reference is the teacher.
    """

    student: Annotated[Annotated[_Share, Tag("float")] | Annotated[Ramp, Tag("Ramp")], NumberOrRamp] = 0.6
    """The cross-entropy's share of the loss; the rest is the teacher's. A mapping changes it over the training:
    {start: 1, end: 0, over: 50%}. 1 goes with hidden_states only: there is no KL then."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """t, by which the logits of both are divided for the KL. The KL is multiplied by t^2, so that its gradient stays of
    the same size at every temperature (Hinton, Vinyals and Dean, 2015)."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """How many of the teacher's most probable tokens are told apart; all others count as one, with the sum of their
    probabilities. null: the whole vocabulary."""
    outputs: Literal["auto", "stored", "online"] = "auto"
    """stored: the teacher's outputs for all training sequences are computed once, and read by every training of the
    run that needs the same. online: the teacher passes every batch anew. auto: whichever takes less time by an estimate
    that is printed. Stored are its final hidden states, from which its head computes the distribution again, or the
    top_k where these take less."""
    hidden_states: HiddenStates | None = None
    """Learn the teacher's hidden states too, such as {weight: 10}. null: its distribution alone."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if isinstance(self.student, Ramp):
            if max(self.student.start, self.student.end) > 1:
                raise ValueError("student: a share is at most 1; give start and end from 0 to 1")
            if self.student.start == self.student.end == 1:
                raise ValueError("student: the teacher would have no share; give a start or an end below 1")
        elif self.student == 1 and self.hidden_states is None:
            raise ValueError("student: with 1 the teacher would have no share; give less, or add hidden_states")
        elif self.student == 1 and (self.temperature != 1 or self.top_k is not None):
            raise ValueError("student: with 1 there is no KL for temperature and top_k; remove these, or give less")
        return self


DISTILLATION = Key(
    "distillation", Distillation | None, None,
    "Learn from a teacher too; {} takes the paper's settings. null: from the text alone.",
)  # fmt: skip
