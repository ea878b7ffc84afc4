"""Judging models: the loss of every validation sequence, and the gap between two models, sequence by sequence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.data import Prepared, Sequences, check_vocabulary, open_prepared
from inheritune.errors import RunError
from inheritune.losses import next_token_losses
from inheritune.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error; the error is None where there is only one value."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Evaluation:
    """The mean loss of each validation sequence, in nats a token."""

    losses: tuple[float, ...]

    @property
    def loss(self) -> Mean:
        """Validation loss: all sequences are of one length, so this is the mean over tokens too."""
        return mean(self.losses)


def mean(values: Sequence[float]) -> Mean:
    """The mean of independent values and its standard error (sample deviation over the root of their number)."""
    count = len(values)
    middle = math.fsum(values) / count
    if count < 2:
        return Mean(middle, None)
    variance = math.fsum((value - middle) ** 2 for value in values) / (count - 1)
    return Mean(middle, math.sqrt(variance / count))


def gap(target: Sequence[float], reference: Sequence[float]) -> Mean:
    """Mean over the sequences of the target's loss less the reference's, with its standard error (paired)."""
    return mean([a - b for a, b in zip(target, reference, strict=True)])


def is_matched(gap_value: float, tolerance: float) -> bool:
    """Whether the gap is at most the tolerance (both in nats a token)."""
    return gap_value <= tolerance


def sequence_losses(
    model: "PreTrainedModel",
    sequences: Sequences,
    runtime: Runtime,
    precision: str,
    micro_batch: int,
    most: int | None = None,
) -> tuple[float, ...]:
    """The mean loss of each of the first `most` sequences (default: all), in nats a token.

    Leaves the model in the mode (training or evaluation) in which it came, and torch's random state as it was.
    """
    import torch

    training = model.training
    model.eval()
    losses: list[float] = []
    count = sequences.count if most is None else min(most, sequences.count)
    with torch.inference_mode():
        for first in range(0, count, micro_batch):
            tokens = torch.from_numpy(sequences.rows(range(first, min(first + micro_batch, count))))
            with runtime.autocast(precision):
                rows = next_token_losses(model, tokens.to(runtime.device))
            losses.extend(rows.double().mean(dim=1).tolist())
    model.train(training)
    bad = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    if bad:
        raise RunError(
            "evaluation",
            f"the loss of validation sequence {bad[0]} is {losses[bad[0]]}",
            "check the model's weights",
        )
    return tuple(losses)


def evaluate(
    model: "PreTrainedModel", data: "Prepared | str | Path", sequence_length: int = 1024, *,
    device: str = "auto", precision: str = "auto", micro_batch: int = 8,
) -> Evaluation:  # fmt: skip
    """Validation loss of a model on prepared data, cut into fixed sequences of `sequence_length` tokens.

    Raises InputError when the data is damaged, too small for one sequence, or has tokens that the model does not embed.
    """
    prepared = data if isinstance(data, Prepared) else open_prepared(data)
    check_vocabulary(prepared, model.config.vocab_size, "data")
    runtime = rt.start(device)
    sequences = Sequences(prepared.tokens("validation"), sequence_length, "data.validation")
    return Evaluation(sequence_losses(model.to(runtime.device), sequences, runtime, precision, micro_batch))


def figures(evaluation: Evaluation, reference: Evaluation | None, tolerance: float) -> dict[str, Any]:
    """The keys that every judged model has in summary.json."""
    found: dict[str, Any] = {"val_loss": evaluation.loss.value, "val_loss_se": evaluation.loss.error}
    if reference is not None:
        between = gap(evaluation.losses, reference.losses)
        found |= {
            "gap": between.value,
            "gap_se": between.error,
            "matched": is_matched(between.value, tolerance),
        }
    return found
