"""The recipe's `train`: length, batches, losses, optimizer, schedule."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, create_model, model_validator

from inheritune.limits import BATCH
from inheritune.losses import LOSSES, Distillation, RouterChoice
from inheritune.optimizers import AnyOptimizer, read_optimizer
from inheritune.settings import Part
from inheritune.settings.size import Batch, Interval, Length, Size, WarmUp

NotNegative = Annotated[float, Field(ge=0)]


def _number_or_auto(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("not a number of sequences: give a whole number from 1, or auto")


def _flag_or_auto(value: Any) -> Any:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("legal are true, false and auto")


class Schedule(Part):
    """The learning rate over the steps of one training."""

    name: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """After warm-up: a half cosine or a straight line down to `final`; wsd: the peak rate, then a straight line down to
    `final` over the last `decay` (warm-up, stable, decay); constant: the peak rate throughout."""
    warm_up: WarmUp = Size(2, "%")
    """Linear rise from 0: steps, tokens, or a share of the length."""
    decay: WarmUp = Size(20, "%")
    """How long the rate falls at the end: steps, tokens, or a share of the length (wsd only)."""
    final: NotNegative = 0.1
    """The last step's rate as a fraction of the peak (all but constant)."""


class Checkpoints(Part):
    """States from which an interrupted training resumes. They do not change the result."""

    every: Interval = Size(5, "minutes")
    """How often: minutes or steps."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest stay on disk, each about 3 times the model's float32 size."""
    best: bool = True
    """Keep the weights with the lowest validation loss seen on the way beside them, in `best`."""


class _Training(Part):
    """One training of one model."""

    length: Length
    """Tokens, steps or epochs. Whole steps: tokens that fill no step are not trained on (`left_over_tokens` in
    training.json)."""
    batch: Batch = Size(64, "sequences")
    """The batch of one optimizer step: sequences, or tokens (rounded down to whole sequences)."""
    sequence_length: Annotated[int, Field(ge=2)] = 1024
    """Predicted tokens a sequence, in training and in validation."""
    sampling: Literal["shuffled", "with replacement"] = "shuffled"
    """shuffled: every sequence once an epoch, each epoch in an order of its own. with replacement: sequences that begin
    anywhere, each drawn for itself, as in the paper's GPT-2 experiments; an epoch is as many tokens as there are."""
    attention: Literal["sequence", "document"] = "sequence"
    """How far a token sees back, in training and in validation: to the beginning of its sequence, or of its document
    (after the last end-of-text), where positions restart at 0. document: all models of a run must be able to."""
    micro_batch: Annotated[Literal["auto"] | int, BeforeValidator(_number_or_auto)] = "auto"
    """Sequences that pass through the model at once on each process; a batch is accumulated from them. auto: on a GPU
    the most that fit, elsewhere at most 8."""
    precision: Literal["auto", "float32", "bfloat16", "float8"] = "auto"
    """What the matrix products compute in; weights stay float32. auto: bfloat16 on a GPU that has it, else float32.
    float8: the blocks' products in float8 (torchao, a GPU of compute capability 8.9 or more), the rest in bfloat16."""
    compile: Annotated[Literal["auto"] | bool, BeforeValidator(_flag_or_auto)] = "auto"
    """Compile with torch.compile: faster steps after half a minute or more of compiling. auto: on CUDA, and on a CPU
    for trainings of at least 1e15 FLOPs (about two hours on two cores)."""
    activation_checkpointing: bool = False
    """Keep only the blocks' inputs for the backward pass and compute the rest again: less memory, a third more work."""
    spike: Annotated[float, Field(gt=1)] | None = None
    """A loss above so many times the median of the last 50 steps: go back to the newest checkpoint and skip the
    sequences since; null: continue."""
    optimizer: AnyOptimizer = read_optimizer({})
    """The optimizer's settings."""
    schedule: Schedule = Schedule()
    """The learning rate over time."""
    checkpoint: Checkpoints = Checkpoints()
    """When states are saved."""

    @model_validator(mode="after")
    def _whole_sequences(self) -> Self:
        if self.batch.unit == "tokens" and self.batch.count < self.sequence_length:
            raise ValueError(
                f"batch: {self.batch} is less than one sequence of {self.sequence_length} tokens; raise batch to"
                f" '{self.sequence_length} tokens' or more, or lower sequence_length"
            )
        if self.batch_sequences > BATCH:
            raise ValueError(f"batch: {self.batch} is {self.batch_sequences:,} sequences; give at most {BATCH:,}")
        if self.micro_batch != "auto" and self.micro_batch > self.batch_sequences:
            raise ValueError(
                f"micro_batch: {self.micro_batch} is more than the batch's {self.batch_sequences} sequences;"
                f" give at most {self.batch_sequences}"
            )
        for key, loss in LOSSES:
            loss.check(getattr(self, key.name), self)
        return self

    @property
    def batch_sequences(self) -> int:
        """Sequences of one optimizer step."""
        return self.batch.count if self.batch.unit == "sequences" else self.batch.count // self.sequence_length

    @property
    def batch_tokens(self) -> int:
        """Tokens of one optimizer step."""
        return self.batch_sequences * self.sequence_length

    @property
    def micro_batch_sequences(self) -> int:
        """Sequences that pass through the model at once where `auto` is not found by trying."""
        return min(self.batch_sequences, 8) if self.micro_batch == "auto" else self.micro_batch

    def tokens_asked(self, sequences: int) -> int:
        """Tokens of this length over a training set of `sequences` sequences, whether they fill whole steps or not."""
        if self.length.unit == "epochs":
            return int(self.length.amount * sequences) * self.sequence_length
        return self.length.count * (self.batch_tokens if self.length.unit == "steps" else 1)

    def steps(self, sequences: int) -> int:
        """Optimizer steps of this length over a training set of `sequences` sequences, rounded down (may be 0)."""
        return self.tokens_asked(sequences) // self.batch_tokens

    def left_over(self, sequences: int) -> int:
        """Tokens of this length that fill no step, and so are not trained on."""
        return self.tokens_asked(sequences) % self.batch_tokens

    def rounded_down(self, sequences: int | None) -> str | None:
        """What is asked for and what whole steps make of it, in words; None where they are the same.

        None too where the length is in epochs and the number of `sequences` is not known.
        """
        if sequences is None and self.length.unit == "epochs":
            return None
        asked, steps = self.tokens_asked(sequences or 0), self.steps(sequences or 0)
        if asked == steps * self.batch_tokens:
            return None
        epochs = f" ({self.length})" if self.length.unit == "epochs" else ""
        whole = f"{steps:,} whole step" + ("" if steps == 1 else "s")
        return f"{asked:,} tokens{epochs} asked for; {whole} of {self.batch_tokens:,} are {steps * self.batch_tokens:,}"

    def warm_up_steps(self, steps: int) -> int:
        """Steps of warm-up in a training of `steps` steps, rounded down."""
        return self.schedule.warm_up.in_steps(steps, self.batch_tokens)

    def decay_steps(self, steps: int) -> int:
        """Steps at the end of a training of `steps` steps over which the rate falls (wsd), rounded down."""
        return self.schedule.decay.in_steps(steps, self.batch_tokens)

    @property
    def needs_teacher(self) -> bool:
        """Whether one of its losses asks for a teacher."""
        return any(loss.asks_teacher(getattr(self, key.name)) for key, loss in LOSSES)


# The keys of the losses, each from the file of its loss.
if TYPE_CHECKING:

    class Training(_Training):
        """One training of one model."""

        distillation: Distillation | None = None
        router_loss: RouterChoice = "auto"
else:
    Training = create_model(
        "Training", __base__=_Training, __doc__=_Training.__doc__, __module__=__name__,
        **{key.name: (key.type, Field(key.default, description=key.description)) for key, _ in LOSSES},
    )  # fmt: skip
