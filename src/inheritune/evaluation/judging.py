"""Judging models: the loss of every validation sequence, and the gap between two models, sequence by sequence."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import block_modules
from inheritune.data import Prepared, Sequences, check_vocabulary, open_data
from inheritune.errors import InputError, RunError
from inheritune.runtime import Runtime
from inheritune.training import NextToken, check_documents_apart, choose, spread

if TYPE_CHECKING:
    from pathlib import Path

    import torch
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
    score: "Callable[[torch.Tensor, torch.Tensor], torch.Tensor]",
    sequences: Sequences,
    runtime: Runtime,
    micro_batch: int,
    most: int | None = None,
) -> tuple[float, ...]:
    """The mean loss of each of the first `most` sequences (default: all), in nats a token.

    `score` gives them, (B,), from inputs and targets (B, T). Several processes share the sequences, and each has the
    result. Raises RunError for a loss that is not finite.
    """
    import torch

    count = sequences.count if most is None else min(most, sequences.count)
    share = -(-count // runtime.processes)
    mine = list(range(count))[runtime.rank * share : (runtime.rank + 1) * share]
    losses: list[float] = []
    with torch.no_grad():
        for first in range(0, share, micro_batch):  # as many calls on every process, since sharded models meet in each
            numbers = mine[first : first + micro_batch]
            filled = numbers if runtime.processes == 1 else [*numbers, *[0] * (micro_batch - len(numbers))]
            rows = torch.from_numpy(sequences.rows(filled)).to(runtime.device)
            losses.extend(score(rows[:, :-1], rows[:, 1:]).tolist()[: len(numbers)])
    found = tuple(loss for part in runtime.gather(losses) for loss in part)
    check_finite(found)
    return found


def check_finite(losses: Sequence[float]) -> None:
    """Raise RunError where the loss of a sequence is not finite."""
    for number, loss in enumerate(losses):
        if not math.isfinite(loss):
            what, remedy = f"the loss of validation sequence {number} is {loss}", "check the model's weights"
            if loss == math.inf:
                what += ": the model gives one of its tokens probability 0"
                remedy += ", and whether its head forbids tokens (a bias or a mask of -inf) that the text has"
            raise RunError("evaluation", what, remedy)


@contextmanager
def scoring(
    model: "PreTrainedModel", runtime: Runtime, *, precision: str, parallel: str, end_of_text: int | None,
    sequence_length: int,
) -> "Iterator[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]":  # fmt: skip
    """What gives the loss of each token in nats (B, T), from inputs and targets (B, T): see `judge`.

    `sequence_length` is the largest T.
    """
    if end_of_text is not None:
        check_documents_apart(model, end_of_text, sequence_length, "train.attention: document")
    how = choose(parallel, model, runtime)
    precision = runtime.resolve_precision(precision)
    if how == "fsdp":
        model = copy.deepcopy(model)  # sharding is for good
        scored = NextToken(model, None, end_of_text)
        held = spread(scored, block_modules(model), how, runtime, precision=precision, trained=False)
    else:
        held = spread(NextToken(model, None, end_of_text), [], "alone", runtime)
    training = model.training
    model.eval()

    def score(inputs_BT: "torch.Tensor", targets_BT: "torch.Tensor") -> "torch.Tensor":
        with runtime.autocast(precision):
            found: torch.Tensor = held.module(inputs_BT, targets_BT, by_token=True)
        return found

    try:
        yield score
    finally:
        model.train(training)


def judge(
    model: "PreTrainedModel", sequences: Sequences, runtime: Runtime, *, precision: str = "auto", micro_batch: int = 8,
    parallel: str = "auto", end_of_text: int | None = None,
) -> Evaluation:  # fmt: skip
    """The losses of a model on the CPU on all `sequences`; it is moved to the device, or (FSDP) spread over several.

    With `end_of_text` attention stays inside documents; raises InputError for a model that does not keep them apart.
    Leaves the model in the mode (training or evaluation) in which it came. Raises RunError as `sequence_losses` does.
    """
    with scoring(
        model, runtime, precision=precision, parallel=parallel, end_of_text=end_of_text,
        sequence_length=sequences.sequence_length,
    ) as score:  # fmt: skip
        return Evaluation(
            sequence_losses(
                lambda inputs_BT, targets_BT: score(inputs_BT, targets_BT).double().mean(dim=1),
                sequences, runtime, micro_batch,
            )
        )  # fmt: skip


def judge_on(
    model: "PreTrainedModel", data: "Prepared | str | Path", sequence_length: int = 1024, *,
    device: str = "auto", precision: str = "auto", micro_batch: int = 8, attention: str = "sequence",
) -> Evaluation:  # fmt: skip
    """Validation loss of a model on prepared data, cut into fixed sequences of `sequence_length` tokens.

    `data` may be a folder with nanoGPT's train.bin and val.bin too; `attention` is as in a recipe's `train`. Raises
    InputError when the data is damaged, too small for one sequence, or has tokens that the model does not embed.
    """
    if attention not in ("sequence", "document"):
        raise InputError("attention", f"got {attention!r}", "give 'sequence' or 'document'")
    runtime = rt.start(device)
    prepared = open_data(data, runtime, model.config.vocab_size, None)
    check_vocabulary(prepared, model.config.vocab_size, "data")
    sequences = Sequences(prepared.tokens("validation"), sequence_length, "data.validation")
    end = prepared.end_of_text if attention == "document" else None
    return judge(model, sequences, runtime, precision=precision, micro_batch=micro_batch, end_of_text=end)


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
