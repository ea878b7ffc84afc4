"""What trainings minimise. Each file with a `Loss` is found and registered automatically, without loading torch."""

from typing import Any

from inheritune.losses.base import (
    BatchLoss,
    Key,
    LogitsLoss,
    Loss,
    LossInputs,
    LossSetup,
    Ramp,
    RouterTerm,
    Taught,
    TeacherNeeds,
    Weight,
    weight_at,
)
from inheritune.losses.cross_entropy import CrossEntropy
from inheritune.losses.distillation import Distillation, HiddenStates
from inheritune.losses.hidden_states import HiddenStatesDistance
from inheritune.losses.kl import KullbackLeibler
from inheritune.losses.router import RouterBalance, RouterChoice
from inheritune.settings import subclasses_in

LOSSES: list[tuple[Key, type[Loss]]] = [
    (kind.key, kind)
    for kind in subclasses_in(__name__, __path__, Loss, helpers=["combining", "functional", "streaming"])
    if kind.key is not None
]
"""The losses that a recipe can switch on, with their keys of `train`. Losses may share a key."""


def build_losses(train: Any, setup: LossSetup) -> list[Loss]:
    """The losses that the settings `train` switch on: the cross-entropy of the text, and the others behind it."""
    others = [loss for key, kind in LOSSES if (loss := kind.build(getattr(train, key.name), setup)) is not None]
    share = next((loss.text_weight for loss in others if loss.text_weight is not None), 1.0)
    return [CrossEntropy(share), *others]
