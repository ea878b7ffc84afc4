"""The results of one training, and of a model that was judged: training.json and evaluation.json."""

from pathlib import Path
from typing import ClassVar, Literal

from inheritune.results.files import ResultFile, ResultPart
from inheritune.runlog import read_mapping

Decision = Literal["matched", "undecided", "behind"]
"""What a gap decides: its upper bound is at most the tolerance; only the gap itself is; the gap is larger."""


class Spent(ResultPart):
    """What trainings have cost. Means over seeds need not be whole."""

    tokens: int | float
    """Predicted tokens, over all steps."""
    epochs: float
    """How often the training text was seen."""
    steps: int | float
    """Optimizer steps."""
    left_over_tokens: int
    """Training tokens of the last epoch that fill no batch and were not seen."""
    flops: int | float
    """FLOPs of forward and backward passes: 6 N + 12 L H Q T a token (PaLM, appendix B). A teacher's are not in it."""
    teacher_outputs: str | None = None
    """`online` or `stored`: where a teacher's outputs came from. Absent without a teacher."""
    teacher_flops: int | float | None = None
    """FLOPs of the teacher's passes. Those of stored outputs are spent once for all trainings that share them."""
    teacher_head_flops: int | float | None = None
    """FLOPs of the teacher's head, which computes distributions from stored hidden states at each use. Absent where it
    does not."""
    teacher_seconds: float | None = None
    """The time to compute stored outputs; absent for online ones."""
    tokens_per_second: float | None
    seconds: float
    """The time of the steps alone."""

    @property
    def all_teacher_flops(self) -> int | float | None:
        """FLOPs of the teacher's passes and of its head; None without a teacher."""
        return None if self.teacher_flops is None else self.teacher_flops + (self.teacher_head_flops or 0)


class TrainingSpent(Spent):
    """What one training has cost."""

    tokens: int
    steps: int
    flops: int
    teacher_flops: int | None = None
    planned_steps: int | None = None
    """Steps that were asked for; absent unless the training ended before them, as it could not match."""
    teacher_head_flops: int | None = None


class Sized(ResultPart):
    """The size of a model."""

    layers: int
    parameters: int


class Loss(ResultPart):
    """A validation loss in nats a token, and its distance to the reference's."""

    val_loss: float
    val_loss_se: float | None
    """Standard error over the clusters of the validation text; None for a single one."""
    gap: float | None = None
    """The model's loss less the reference's, paired by cluster. Absent where there is no reference."""
    gap_se: float | None = None
    gap_upper: float | None = None
    """The upper bound of the gap, one-sided, with confidence 0.95; None for a single cluster."""
    decision: Decision | None = None
    tokens_to_decide: int | None = None
    """About how many validation tokens would decide; absent unless undecided, None where no number would."""


class ComparedLoss(Loss):
    """The loss of a model that was compared with a reference."""

    gap: float
    gap_se: float | None
    gap_upper: float | None
    decision: Decision

    @property
    def is_matched(self) -> bool:
        """Whether the gap is shown to be at most the tolerance."""
        return self.decision == "matched"


class ClusterLosses(ResultPart):
    """The losses that errors are computed from."""

    validation_documents: int
    """Pieces of one file count as one."""
    cluster_losses: list[float]
    """The mean loss of each cluster of the validation text, in nats a token."""
    cluster_tokens: list[int]
    """The predicted tokens of each cluster."""
    curve_loss: float
    """The loss on the sequences that the curves are taken on."""


class TrainingCost(ResultFile, TrainingSpent, Sized):
    """training.json: a training that is done and not judged yet."""

    prefix: list[int] | None = None
    """Tokens in front of every sequence; absent where there are none."""
    wall_seconds: float
    """The time of building, training and saving, checkpoints and validations included."""


class ModelResult(ResultFile, ClusterLosses, Loss, Sized):
    """evaluation.json of a model that was judged and not trained: a reference."""

    VERSION: ClassVar[int] = 2  # 1 had the losses of sequences, whose errors are too small

    name: str
    prefix: list[int] | None = None
    validation_sequences: int
    revision: str | None = None
    """The commit of a model of the hub."""
    wall_seconds: float


class TrainingResult(ModelResult, TrainingSpent):
    """evaluation.json of a training that is done and judged."""

    model: str
    """Folder of the model, from that of this file."""


class RoundResult(TrainingResult):
    """The result of a round, with the cost of the earlier rounds that it resumed from (absent: none)."""

    folder: str
    """Folder of the round, from that of all rounds."""
    blocks: list[int] | None
    """The source's blocks that it began with; None where it began without any."""
    tokens_before: int | None = None
    steps_before: int | None = None
    flops_before: int | None = None
    teacher_flops_before: int | None = None
    teacher_head_flops_before: int | None = None


class UntunedReference(Loss):
    """The reference as it was before it was tuned on the run's text. `gap` is what tuning gained: its loss less the
    tuned one's.
    """

    gap_interval: tuple[float, float] | None = None
    """The 95 % interval over the clusters of the validation text."""
    cluster_losses: list[float]


class TunedReference(TrainingResult):
    """evaluation.json of a tuned reference. Its cost is that of tuning."""

    model: str = "model"
    untuned: UntunedReference
    tuned_step: int
    """The step whose weights were taken: the best one on the text held out. 0: the reference's own."""
    held_out_losses: dict[int, float]
    """By step, on the text held out."""


def read_judged(path: Path) -> ModelResult | TrainingResult | None:
    """evaluation.json of a model that may have been trained. Raises as `ResultFile.read` does.

    None where there is none, or an earlier version wrote it: the model is then judged again.
    """
    if not path.is_file() or ModelResult.is_outdated(path):
        return None
    tree = read_mapping(path, remedy=ModelResult.REMEDY)
    kind = TunedReference if "untuned" in tree else TrainingResult if "steps" in tree else ModelResult
    return kind.parse(tree, path)
