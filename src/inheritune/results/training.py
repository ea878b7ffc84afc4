"""The results of one training, and of a model that was judged: training.json and evaluation.json."""

from pathlib import Path

from inheritune.results.files import ResultFile, ResultPart
from inheritune.runlog import read_mapping


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
    teacher_seconds: float | None = None
    """The time to compute stored outputs; absent for online ones."""
    tokens_per_second: float | None
    seconds: float
    """The time of the steps alone."""


class TrainingSpent(Spent):
    """What one training has cost."""

    tokens: int
    steps: int
    flops: int
    teacher_flops: int | None = None


class Sized(ResultPart):
    """The size of a model."""

    layers: int
    parameters: int


class Loss(ResultPart):
    """A validation loss in nats a token, and its distance to the reference's."""

    val_loss: float
    val_loss_se: float | None
    """Standard error over the validation sequences; None for a single one."""
    gap: float | None = None
    """Mean over the sequences of the model's loss less the reference's. Absent where there is no reference."""
    gap_se: float | None = None
    matched: bool | None = None
    """Whether the gap is at most the tolerance."""


class ComparedLoss(Loss):
    """The loss of a model that was compared with a reference."""

    gap: float
    gap_se: float | None
    matched: bool


class TrainingCost(ResultFile, TrainingSpent, Sized):
    """training.json: a training that is done and not judged yet."""

    prefix: list[int] | None = None
    """Tokens in front of every sequence; absent where there are none."""
    wall_seconds: float
    """The time of building, training and saving, checkpoints and validations included."""


class ModelResult(ResultFile, Loss, Sized):
    """evaluation.json of a model that was judged and not trained: a reference."""

    name: str
    prefix: list[int] | None = None
    validation_sequences: int
    revision: str | None = None
    """The commit of a model of the hub."""
    wall_seconds: float
    sequence_losses: list[float]
    """The loss of each validation sequence, in nats a token."""


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


def read_judged(path: Path) -> ModelResult | TrainingResult:
    """evaluation.json of a model that may have been trained. Raises as `ResultFile.read` does."""
    tree = read_mapping(path, remedy=ModelResult.REMEDY)
    kind = TrainingResult if "steps" in tree else ModelResult
    return kind.parse(tree, path)
