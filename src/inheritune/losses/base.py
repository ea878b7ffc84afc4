"""The base classes of losses: name in metrics.jsonl, weight, key of a recipe's `train`, needs, value."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Protocol, Self

from pydantic import Discriminator, Field, Tag

from inheritune.settings import Part, Size
from inheritune.settings.size import WarmUp

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from inheritune.losses.functional import Distribution


class Ramp(Part):
    """A weight that changes linearly from the first step on, and then stays constant."""

    start: Annotated[float, Field(ge=0)]
    """The weight of the first step."""
    end: Annotated[float, Field(ge=0)]
    """The weight at the end of the ramp, and from then on."""
    over: WarmUp = Size(100, "%")
    """The length of the ramp: steps, tokens, or a share of the training's length."""

    def map(self, change: Callable[[float], float]) -> "Ramp":
        """The ramp between the changed ends, for a linear `change`."""
        return Ramp(start=change(self.start), end=change(self.end), over=self.over)


def _is_ramp(value: Any) -> str:
    return "Ramp" if isinstance(value, dict | Ramp) else "float"


NumberOrRamp = Discriminator(_is_ramp)
"""Reads a union of a number tagged `float` and a mapping tagged `Ramp`."""

Weight = Annotated[Annotated[Annotated[float, Field(ge=0)], Tag("float")] | Annotated[Ramp, Tag("Ramp")], NumberOrRamp]
"""A constant, or a weight that changes over a training."""


def weight_at(weight: float | Ramp, step: int, steps: int, batch_tokens: int) -> float:
    """A weight in optimizer step `step` (from 0) of `steps`, each of `batch_tokens` tokens."""
    if not isinstance(weight, Ramp):
        return weight
    length = weight.over.in_steps(steps, batch_tokens)
    share = 1.0 if length <= 1 else min(1.0, step / (length - 1))
    return weight.start + (weight.end - weight.start) * share


@dataclass(frozen=True)
class TeacherNeeds:
    """What a loss needs of a teacher for each batch.

    `temperature`, if not None, is that of the distributions: of the `top_k` most probable entries and all others as
    one, or (`top_k` None) of the whole vocabulary. `hidden_states` are blocks of the teacher, counted from 0, whose
    outputs are needed.
    """

    temperature: float | None = None
    top_k: int | None = None
    hidden_states: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return self.temperature is not None or bool(self.hidden_states)

    @classmethod
    def of(cls, losses: "Sequence[Loss]") -> "TeacherNeeds":
        """What several losses need together. Raises ValueError where they need different distributions."""
        needs = [loss.needs for loss in losses]
        asked = {(one.temperature, one.top_k) for one in needs if one.temperature is not None}
        if len(asked) > 1:
            raise ValueError("losses ask for a teacher's distributions at different temperatures or top_k")
        temperature, top_k = asked.pop() if asked else (None, None)
        return cls(temperature, top_k, frozenset().union(*(one.hidden_states for one in needs)))


class Taught(Protocol):
    """A teacher's outputs for one batch of inputs (B, T)."""

    @property
    def hidden_states(self) -> "Mapping[int, torch.Tensor]":
        """The outputs of the blocks that were asked for, by their numbers, at the N inputs that predict the tokens
        (N, D).
        """

    def distribution(self, tokens: slice) -> "Distribution":
        """The distribution of some of the B x L predicted tokens."""


class RouterTerm(Protocol):
    """The router loss of a mixture of experts, as `arch.RouterLoss` computes it."""

    @property
    def weight(self) -> float:
        """The config's coefficient."""

    def __call__(self, router_logits: "Sequence[torch.Tensor]", counts_BT: "torch.Tensor") -> "torch.Tensor":
        """The term over a batch, from the routers' logits and the positions that count."""


class Key(NamedTuple):
    """A loss's key of a recipe's `train`: its name, the type of its value, the default (off), and what it means."""

    name: str
    type: Any
    default: Any
    description: str


@dataclass(frozen=True)
class LossSetup:
    """What losses are built from besides their settings: the model's router loss, or None, and the configs of model and
    teacher, for the sizes of hidden states. `blocks` are the teacher's that the model's were made of; None where that
    is not known.
    """

    router: RouterTerm | None = None
    config: "PretrainedConfig | None" = None
    teacher_config: "PretrainedConfig | None" = None
    blocks: Sequence[int] | None = None


@dataclass(frozen=True)
class LossInputs:
    """The inputs of a loss, for a batch (B, T) that predicts B x L = N tokens.

    `targets_N` are the predicted tokens; -100 does not count. `hidden_states` and those of `taught` are the outputs of
    the blocks that the loss asked for, at the N inputs that predict the targets (N, D). `router_logits` has a tensor
    (B x T, experts) for each block with experts. `attended_BT` is 1 for each input up to the last target that counts.
    """

    targets_N: "torch.Tensor"
    attended_BT: "torch.Tensor"
    router_logits: "Sequence[torch.Tensor]" = ()
    hidden_states: "Mapping[int, torch.Tensor]" = field(default_factory=dict)
    teacher_hidden_states: "Mapping[int, torch.Tensor]" = field(default_factory=dict)

    @property
    def counted(self) -> "torch.Tensor":
        """How many targets count."""
        return (self.targets_N >= 0).sum()


class Loss:
    """One term of what a training minimises: the sum of `weight` times each loss.

    A new loss is a subclass in a file of its own in this package. It has either `of_logits` or `of_batch`.

    - `name`: its term in metrics.jsonl, recorded as a mean over the targets that count.
    - `key`: what switches it on in a recipe's `train`.
    - `weight`: constant, or a `Ramp`.
    - `needs`: what it needs of a teacher.
    - `blocks`: blocks of the model, counted from 0, whose outputs it needs.
    - `needs_router_logits`: whether the model has to return its routers' logits.
    - `text_weight`: replaces the weight of the text's cross-entropy; None keeps 1.
    - `module`: parameters of its own (None: none). They are trained, sharded and kept in checkpoints like the model's,
      but do not belong to the saved model. Draw their first values from a seed: all processes begin with the same.
    """

    name: ClassVar[str]
    key: ClassVar[Key | None] = None
    needs_router_logits: ClassVar[bool] = False
    needs: TeacherNeeds = TeacherNeeds()
    blocks: frozenset[int] = frozenset()
    text_weight: float | Ramp | None = None
    module: "torch.nn.Module | None" = None

    def __init__(self, weight: float | Ramp = 1.0) -> None:
        self.weight = weight

    @classmethod
    def build(cls, settings: Any, setup: LossSetup) -> Self | None:
        """The loss for the value that its key has in a recipe; None where that switches it off."""
        raise NotImplementedError

    @classmethod
    def check(cls, settings: Any, train: Any) -> None:
        """Raise ValueError where the key's value does not go with the other keys of `train`."""

    @classmethod
    def asks_teacher(cls, settings: Any) -> bool:
        """Whether the loss with these settings needs a teacher."""
        return False


class LogitsLoss(Loss, ABC):
    """A loss on the logits, which may be computed for a part of the tokens at a time."""

    @abstractmethod
    def of_logits(
        self, logits_NV: "torch.Tensor", targets_N: "torch.Tensor", teacher: "Distribution | None"
    ) -> "torch.Tensor":
        """The sum over the targets that count, in float32; `teacher` is the distribution of these tokens, if needed."""


class BatchLoss(Loss, ABC):
    """A loss that needs the whole batch: hidden states or router logits."""

    @abstractmethod
    def of_batch(self, inputs: LossInputs) -> "torch.Tensor":
        """The sum over the targets that count, in float32."""
