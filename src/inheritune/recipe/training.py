"""The recipe's `train`: how long, in what batches, with which optimizer and schedule."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from inheritune.recipe.base import Part
from inheritune.recipe.size import Batch, Interval, Length, Size, WarmUp

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Optimizer(Part):
    """AdamW (Loshchilov and Hutter, 2019). Defaults follow the paper's GPT-2 experiments."""

    learning_rate: Positive = 3e-4
    """Peak rate, reached after warm-up."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the running means of gradient and squared gradient."""
    epsilon: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: NotNegative = 0.1
    """Decoupled decay, on tensors of two or more dimensions only (matrices and embeddings, not norms or biases)."""
    clip: Positive | None = 1.0
    """Largest norm of the whole gradient; null: no clipping."""


class Schedule(Part):
    """The learning rate over the steps of one training."""

    name: Literal["cosine", "constant"] = "cosine"
    """After warm-up: a half cosine down to `final`, or the peak rate throughout."""
    warm_up: WarmUp = Size(2, "%")
    """Linear rise from 0: steps, tokens, or a share of the length."""
    final: NotNegative = 0.1
    """The last step's rate as a fraction of the peak (cosine only)."""


class Checkpoints(Part):
    """States from which an interrupted training goes on. They change nothing in the result."""

    every: Interval = Size(5, "minutes")
    """How often: minutes or steps."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest stay on disk, each about 3 times the model's float32 size."""


class Training(Part):
    """One training of one model."""

    length: Length
    """Tokens, steps or epochs. Whole steps: what is left of the last is not trained on."""
    batch: Batch = Size(64, "sequences")
    """What one optimizer step sees: sequences, or tokens (rounded down to whole sequences)."""
    sequence_length: Annotated[int, Field(ge=2)] = 1024
    """Tokens a sequence, in training and in validation."""
    micro_batch: Annotated[int, Field(ge=1)] | None = None
    """Sequences that pass through the model at once; a batch is accumulated from them. Default: the whole batch, at
    most 8 sequences."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the matrix products compute in; weights stay float32. auto: bfloat16 on a GPU that has it, else float32."""
    compile: bool = False
    """Compile the model with torch.compile before training: faster steps after a minute or more of compiling."""
    optimizer: Optimizer = Optimizer()
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
        if self.micro_batch is not None and self.micro_batch > self.batch_sequences:
            raise ValueError(
                f"micro_batch: {self.micro_batch} is more than the batch's {self.batch_sequences} sequences;"
                f" give at most {self.batch_sequences}"
            )
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
        """Sequences that pass through the model at once."""
        return self.micro_batch or min(self.batch_sequences, 8)

    def steps(self, sequences: int) -> int:
        """Optimizer steps of this length over a training set of `sequences` sequences, rounded down (may be 0)."""
        if self.length.unit == "steps":
            return self.length.count
        if self.length.unit == "tokens":
            return self.length.count // self.batch_tokens
        return int(self.length.amount * sequences) // self.batch_sequences

    def warm_up_steps(self, steps: int) -> int:
        """Steps of warm-up in a training of `steps` steps, rounded down."""
        size = self.schedule.warm_up
        if size.unit == "%":
            return int(size.amount / 100 * steps)
        return size.count if size.unit == "steps" else size.count // self.batch_tokens
