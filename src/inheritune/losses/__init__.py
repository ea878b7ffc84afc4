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
from inheritune.losses.kl import Distillation, KullbackLeibler
from inheritune.losses.router import RouterBalance, RouterChoice
from inheritune.settings import subclasses_in

LOSSES: dict[str, type[Loss]] = {
    kind.key.name: kind
    for kind in subclasses_in(__name__, __path__, Loss, helpers=["combining", "functional", "streaming"])
    if kind.key is not None
}
"""The losses that a recipe can switch on, by their keys of `train`."""


def build_losses(train: Any, setup: LossSetup) -> list[Loss]:
    """The losses that the settings `train` switch on: the cross-entropy of the text, and the others behind it."""
    others = [loss for key, kind in LOSSES.items() if (loss := kind.build(getattr(train, key), setup)) is not None]
    share = next((loss.text_weight for loss in others if loss.text_weight is not None), 1.0)
    return [CrossEntropy(share), *others]
