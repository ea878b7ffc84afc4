"""Judging models: the loss of every validation sequence, and the gap between two models, sequence by sequence."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inheritune import runtime as rt
from inheritune.arch import block_modules, load_tokenizer
from inheritune.data import (
    Examples,
    Packing,
    Prepared,
    Rows,
    Sequences,
    check_prefix_fits,
    check_vocabulary,
    open_data,
    packing_of,
)
from inheritune.errors import InputError, RunError
from inheritune.recipe import Reference
from inheritune.runtime import Runtime
from inheritune.training import Objective, check_documents_apart, choose, parallelize
from inheritune.training.job import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error; the error is None where there is only one value."""

    value: float
    error: float | None


@dataclass(frozen=True)
class Evaluation:
    """The loss of each validation sequence, in nats a token (see `sequence_losses`)."""

    losses: tuple[float, ...]

    @property
    def loss(self) -> Mean:
        """Validation loss: the mean over all tokens that are predicted."""
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
    score: Score, sequences: Sequences, runtime: Runtime, micro_batch: int, most: int | None = None
) -> tuple[float, ...]:
    """The loss of each of the first `most` sequences (default: all), in nats a token.

    `score` gives the loss of each target (B, T), 0 where it does not count. Where sequences have different numbers of
    targets that count, each sequence's loss is multiplied by its number over the average number, so that the mean over
    sequences is the mean over tokens. Several processes share the sequences, and each has the result. Raises RunError
    for a loss that is not finite.
    """

    def figures_of(examples: Examples) -> torch.Tensor:
        means_B = score(examples).double().sum(dim=1) / examples.counts
        return torch.stack([means_B, examples.counts.double()], dim=1)

    rows = score_rows(sequences, figures_of, runtime, micro_batch, most)
    losses = [loss for loss, _ in rows]
    check_finite(losses)
    if len({counted for _, counted in rows}) > 1:
        average = math.fsum(counted for _, counted in rows) / len(rows)
        losses = [loss * counted / average for loss, counted in rows]
    return tuple(losses)


def score_rows(
    text: Sequences | Rows, figures_of: Callable[[Examples], torch.Tensor], runtime: Runtime, micro_batch: int,
    most: int | None = None,
) -> list[list[float]]:  # fmt: skip
    """The figures (F) of each of the first `most` sequences (default: all), in their order.

    `figures_of` gives those of some sequences (B, F). The processes share the sequences, and each has the result.
    """
    count = text.count if most is None else min(most, text.count)
    share = -(-count // runtime.dp_size)
    own = list(range(count))[runtime.dp_rank * share : (runtime.dp_rank + 1) * share]
    rows: list[list[float]] = []
    with torch.no_grad():
        for first in range(0, share, micro_batch):  # as many calls in every process, as sharded models meet in each
            numbers = own[first : first + micro_batch]
            filled = numbers if runtime.world_size == 1 else [*numbers, *[0] * (micro_batch - len(numbers))]
            figures = figures_of(text.rows(filled).examples().to(runtime.device))
            rows.extend(figures.tolist()[: len(numbers)])
    parts = runtime.gather(rows)
    return [row for part in parts[:: runtime.world_size // runtime.dp_size] for row in part]


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
    model: "PreTrainedModel", runtime: Runtime, packing: Packing, *, sequence_length: int, precision: str, parallel: str
) -> Iterator[Score]:
    """Inside, a function from packed examples to the loss of each target in nats (B, T): see `judge`."""
    check_prefix_fits(packing, model.config.vocab_size, model.config.name_or_path or type(model).__name__)
    if packing.documents and packing.end_of_text is not None:
        check_documents_apart(model, packing.end_of_text, sequence_length, "train.attention: document")
    how = choose(parallel, model, runtime)
    precision = runtime.resolve_precision(precision)
    if how == "fsdp":
        model = copy.deepcopy(model)  # sharding cannot be undone
        held = parallelize(Objective(model), block_modules(model), how, runtime, precision=precision, trained=False)
    else:
        held = parallelize(Objective(model), [], "alone", runtime)
    training = model.training
    model.eval()

    def score(examples: Examples) -> torch.Tensor:
        with runtime.autocast(precision):
            losses: torch.Tensor = held.module(
                examples.inputs, examples.targets, positions=examples.positions, by_token=True
            )
        return losses

    try:
        yield score
    finally:
        model.train(training)


def judge(
    model: "PreTrainedModel", sequences: Sequences, runtime: Runtime, *, precision: str = "auto", micro_batch: int = 8,
    parallel: str = "auto",
) -> Evaluation:  # fmt: skip
    """The losses of a model on all `sequences`. It is moved to the device, or with FSDP a copy of it is sharded.

    Where attention stays inside documents, raises InputError for a model that does not keep them apart. The model's
    mode (training or evaluation) stays the same. Raises RunError as `sequence_losses` does.
    """
    length = sequences.sequence_length
    with scoring(
        model, runtime, sequences.packing, sequence_length=length, precision=precision, parallel=parallel
    ) as score:
        return Evaluation(sequence_losses(score, sequences, runtime, micro_batch))


def judge_on(
    model: "PreTrainedModel", data: Prepared | str | Path, sequence_length: int = 1024, *,
    device: str = "auto", precision: str = "auto", micro_batch: int = 8, attention: str = "sequence",
    tokenizer: "PreTrainedTokenizerBase | None" = None, prefix: str = "auto",
) -> Evaluation:  # fmt: skip
    """Validation loss of a model on prepared data, in sequences of `sequence_length` predicted tokens.

    `data` may be a folder with nanoGPT's train.bin and val.bin too; `attention` and `prefix` are as in a recipe's
    `train` and `data`. `tokenizer` is the model's own (default: the one that made the data). Raises
    InputError when the data is damaged, too small for one sequence, or has tokens that the model does not embed.
    """
    if attention not in ("sequence", "document"):
        raise InputError("attention", f"got {attention!r}", "give 'sequence' or 'document'")
    runtime = rt.start(device)
    prepared = open_data(data, runtime, model.config.vocab_size, tokenizer)
    check_vocabulary(prepared, model.config.vocab_size, "data")
    packing = packing_of(prepared, tokenizer or tokenizer_of(prepared), attention=attention, prefix=prefix)
    sequences = Sequences(prepared.tokens("validation"), sequence_length, "data.validation", packing=packing)
    return judge(model, sequences, runtime, precision=precision, micro_batch=micro_batch)


def tokenizer_of(prepared: Prepared) -> "PreTrainedTokenizerBase | None":
    """The tokenizer that is kept with prepared data; None for token files of other programs."""
    folder = prepared.kept_tokenizer
    return None if folder is None else load_tokenizer(Reference(path=str(folder)))


def figures(evaluation: Evaluation, reference: Evaluation | None, tolerance: float) -> dict[str, Any]:
    """The keys that every judged model has in summary.json."""
    keys: dict[str, Any] = {"val_loss": evaluation.loss.value, "val_loss_se": evaluation.loss.error}
    if reference is not None:
        between = gap(evaluation.losses, reference.losses)
        keys |= {"gap": between.value, "gap_se": between.error, "matched": is_matched(between.value, tolerance)}
    return keys
