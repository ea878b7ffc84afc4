"""Judging models: the validation loss in every cluster of the text, and the gap between two models."""

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
    IGNORED,
    Clusters,
    Examples,
    Packing,
    Prepared,
    Rows,
    Sequences,
    check_prefix_fits,
    check_vocabulary,
    clusters_of,
    open_data,
    packing_of,
)
from inheritune.errors import InputError, RunError
from inheritune.evaluation.statistics import Estimate, decide, gap, loss_of, tokens_to_decide
from inheritune.recipe import Reference
from inheritune.runtime import Runtime
from inheritune.training import SHARDED, Objective, check_documents_apart, choose, parallelize
from inheritune.training.job import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Evaluation:
    """The mean loss of each cluster of the validation text in nats a token, and the clusters' predicted tokens.

    `documents` is the number of documents. `curve_loss` is the loss on the sequences that the curves are taken on.
    """

    losses: tuple[float, ...]
    tokens: tuple[int, ...]
    documents: int
    curve_loss: float

    @property
    def loss(self) -> Estimate:
        """Validation loss: the mean over all tokens that are predicted."""
        return loss_of(self.losses, self.tokens)


def cluster_sums(
    figures_of: Callable[[Examples], torch.Tensor], text: Sequences | Rows, clusters: Clusters, runtime: Runtime,
    micro_batch: int, first: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The sums of F figures of targets over each of C clusters (C, F), and over the `first` sequences (F,), in float64.

    `figures_of` gives the figures of some sequences' targets (B, T, F), the first of which is the loss; all are 0 where
    a target does not count. The processes share the sequences, and each has the result. Raises RunError for a loss
    that is not finite.
    """
    sums_CF: torch.Tensor | None = None
    for numbers, examples, figures_BTF in _scored(figures_of, text, runtime, micro_batch, text.count):
        count = len(clusters.tokens)
        if sums_CF is None:
            sums_CF = torch.zeros(count + 1, figures_BTF.shape[-1], dtype=torch.float64)
        segments_BT = None if examples.segments is None else examples.segments.cpu().numpy()
        ids_BT = clusters.of(numbers, examples.targets.cpu().numpy(), segments_BT)
        sums_CF[:count].index_add_(0, torch.from_numpy(ids_BT).flatten(), figures_BTF.flatten(0, 1))
        sums_CF[count] += figures_BTF[[number < first for number in numbers]].sum(dim=(0, 1))
    sums_CF = _over_processes(sums_CF, runtime)
    return sums_CF[:-1], sums_CF[-1]


def mean_loss(score: Score, sequences: Sequences, runtime: Runtime, micro_batch: int, most: int) -> float:
    """The mean loss of the first `most` sequences in nats a token. Raises RunError as `cluster_sums` does."""
    total_2: torch.Tensor | None = None
    for _, _, figures_BT2 in _scored(_counted(score), sequences, runtime, micro_batch, most):
        part_2 = figures_BT2.sum(dim=(0, 1))
        total_2 = part_2 if total_2 is None else total_2 + part_2
    loss, counted = _over_processes(total_2, runtime).tolist()
    return float(loss / counted)


def _counted(score: Score) -> Callable[[Examples], torch.Tensor]:
    """A function from examples to the loss of each target and 1 where the target counts, (B, T, 2)."""

    def figures_of(examples: Examples) -> torch.Tensor:
        losses_BT = score(examples)
        return torch.stack([losses_BT, (examples.targets != IGNORED).to(losses_BT.dtype)], dim=-1)

    return figures_of


def _scored(
    figures_of: Callable[[Examples], torch.Tensor], text: Sequences | Rows, runtime: Runtime, micro_batch: int,
    most: int,
) -> Iterator[tuple[list[int], Examples, torch.Tensor]]:  # fmt: skip
    """The process's share of the first `most` sequences: their numbers, and their examples and figures (B, T, F).

    The figures are on the CPU, in float64. Every process makes as many calls, as sharded models meet in each.
    """
    count = min(most, text.count)
    share = -(-count // runtime.dp_size)
    own = list(range(count))[runtime.dp_rank * share : (runtime.dp_rank + 1) * share]
    wrong: tuple[int, float] | None = None
    with torch.no_grad():
        for first in range(0, share, micro_batch):
            numbers = own[first : first + micro_batch]
            filled = numbers if runtime.world_size == 1 else [*numbers, *[0] * (micro_batch - len(numbers))]
            examples = text.rows(filled).examples().to(runtime.device)
            figures_BTF = figures_of(examples).cpu().double()
            if not numbers:
                continue
            examples, figures_BTF = examples.part(0, len(numbers)), figures_BTF[: len(numbers)]
            figures_BTF = figures_BTF[:, : examples.targets.shape[1]]
            losses_B = figures_BTF[..., 0].sum(dim=1)
            if wrong is None and not bool(losses_B.isfinite().all()):
                at = int((~losses_B.isfinite()).nonzero()[0])
                wrong = numbers[at], float(losses_B[at])
            yield numbers, examples, figures_BTF
    _check_finite([one for one in runtime.gather(wrong) if one is not None])


def _over_processes(sums: torch.Tensor | None, runtime: Runtime) -> torch.Tensor:
    """The sum over the processes that have different sequences; None: a process without any."""
    parts = runtime.gather(None if sums is None else sums.tolist())
    own = [part for part in parts[:: runtime.world_size // runtime.dp_size] if part is not None]
    return torch.tensor(own, dtype=torch.float64).sum(dim=0)


def _check_finite(wrong: Sequence[tuple[int, float]]) -> None:
    """Raise RunError for the first of these sequences, whose losses are not finite."""
    if wrong:
        number, loss = min(wrong)
        what, remedy = f"the loss of validation sequence {number} is {loss}", "check the model's weights"
        if loss == math.inf:
            what += ": the model gives one of its tokens probability 0"
            remedy += ", and whether its head forbids tokens (a bias or a mask of -inf) that the text has"
        raise RunError("evaluation", what, remedy)


@contextmanager
def scoring(
    model: "PreTrainedModel", runtime: Runtime, packing: Packing, *, sequence_length: int, precision: str,
    parallel: str, is_spent: bool = False,
) -> Iterator[Score]:  # fmt: skip
    """Inside, a function from packed examples to the loss of each target in nats (B, T): see `judge`."""
    check_prefix_fits(packing, model.config.vocab_size, model.config.name_or_path or type(model).__name__)
    if packing.documents and packing.end_of_text is not None:
        end_of_text, place = packing.end_of_text, "train.attention: document"
        runtime.on_rank0(lambda: check_documents_apart(model, end_of_text, sequence_length, place))
    how = choose(parallel, model, runtime)
    precision = runtime.resolve_precision(precision)
    if how in SHARDED:
        if not is_spent:
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
    model: "PreTrainedModel", sequences: Sequences, runtime: Runtime, *, clusters: Clusters | None = None,
    precision: str = "auto", micro_batch: int = 8, parallel: str = "auto", curve_sequences: int | None = None,
    is_spent: bool = False,
) -> Evaluation:  # fmt: skip
    """The losses of a model on all `sequences`. It is moved to the device, or with FSDP a copy of it is sharded, or
    itself where `is_spent`, as nobody needs it afterwards.

    `clusters` are those of the text (default: its documents). `curve_sequences` is how many of the first sequences the
    curves are taken on (default: all). Where attention stays inside documents, raises InputError for a model that does
    not keep them apart. The model's mode (training or evaluation) stays the same. Raises RunError as `cluster_sums`
    does.
    """
    clusters = clusters or clusters_of(sequences)
    most = min(curve_sequences or sequences.count, sequences.count)
    with scoring(
        model, runtime, sequences.packing, sequence_length=sequences.sequence_length, precision=precision,
        parallel=parallel, is_spent=is_spent,
    ) as score:  # fmt: skip
        sums_C2, curve_2 = cluster_sums(_counted(score), sequences, clusters, runtime, micro_batch, most)
    losses = tuple((sums_C2[:, 0] / sums_C2[:, 1]).tolist())
    return Evaluation(losses, clusters.tokens, clusters.documents, float(curve_2[0] / curve_2[1]))


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
    clusters = clusters_of(sequences, prepared.validation_origins)
    return judge(model, sequences, runtime, clusters=clusters, precision=precision, micro_batch=micro_batch)


def tokenizer_of(prepared: Prepared) -> "PreTrainedTokenizerBase | None":
    """The tokenizer that is kept with prepared data; None for token files of other programs."""
    folder = prepared.kept_tokenizer
    return None if folder is None else load_tokenizer(Reference(path=str(folder)))


def figures(evaluation: Evaluation, reference: Evaluation | None, tolerance: float) -> dict[str, Any]:
    """The keys that every judged model has in its evaluation.json."""
    keys: dict[str, Any] = {
        "val_loss": evaluation.loss.value,
        "val_loss_se": evaluation.loss.error,
        "curve_loss": evaluation.curve_loss,
        "validation_documents": evaluation.documents,
        "cluster_losses": list(evaluation.losses),
        "cluster_tokens": list(evaluation.tokens),
    }
    if reference is not None:
        keys |= gap_figures(gap(evaluation.losses, reference.losses, reference.tokens), tolerance, reference.tokens)
    return keys


def gap_figures(between: Estimate, tolerance: float, tokens: Sequence[int]) -> dict[str, Any]:
    """The keys of a gap to the reference: value, error, bound, and what they decide."""
    keys: dict[str, Any] = {
        "gap": between.value, "gap_se": between.error, "gap_upper": between.upper,
        "decision": decide(between, tolerance),
    }  # fmt: skip
    if keys["decision"] == "undecided":
        keys["tokens_to_decide"] = tokens_to_decide(between, tolerance, sum(tokens))
    return keys
