"""The recipe's `train`: how long, in what batches, with which optimizer and schedule."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from inheritune.limits import BATCH
from inheritune.recipe.base import Part
from inheritune.recipe.size import Batch, Interval, Length, Size, WarmUp

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


def _number_or_auto(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("not a number of sequences: give a whole number from 1, or auto")


def _flag_or_auto(value: Any) -> Any:
    if value == "auto" or isinstance(value, bool):
        return value
    raise ValueError("legal are true, false and auto")


class Optimizer(Part):
    """The optimizer. Defaults follow the paper's GPT-2 experiments."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw (Loshchilov and Hutter, 2019), or muon (Jordan et al., 2024) for the blocks' matrices and AdamW for all
    else."""
    learning_rate: Positive = 3e-4
    """Peak rate, reached after warm-up. Muon's updates are scaled so that AdamW's rates fit them."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the running means of gradient and squared gradient."""
    epsilon: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: NotNegative = 0.1
    """Decoupled decay, on tensors of two or more dimensions only (matrices and embeddings, not norms or biases)."""
    clip: Positive | None = 1.0
    """Largest norm of the whole gradient; null: no clipping."""
    momentum: Beta = 0.95
    """Decay of Muon's running mean of gradients (muon only)."""
    states: Literal["float32", "8bit"] = "float32"
    """What the running means are kept in. 8bit: a quarter of the memory, with torchao (adamw on one process only)."""
    offload: bool = False
    """Keep the running means in the CPU's memory and compute the updates there (torchao; adamw on one GPU only)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        given = [name for name, value in (("states: 8bit", self.states == "8bit"), ("offload", self.offload)) if value]
        if given and self.name == "muon":
            raise ValueError(f"{given[0]}: there is no such Muon; give name: adamw, or leave it out")
        if len(given) > 1:
            raise ValueError("offload: the states leave the GPU in float32; give either states: 8bit or offload: true")
        return self


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
    """States from which an interrupted training goes on. They change nothing in the result."""

    every: Interval = Size(5, "minutes")
    """How often: minutes or steps."""
    keep: Annotated[int, Field(ge=1)] = 2
    """How many of the newest stay on disk, each about 3 times the model's float32 size."""
    best: bool = True
    """Keep the weights with the lowest validation loss seen on the way beside them, in `best`."""


class Distillation(Part):
    """Learning from a teacher's distribution besides the text: the loss is student x CE + (1 - student) x t^2 x KL. CE
    is the cross-entropy of the text, KL the divergence of the model's distribution from the teacher's, both at
    temperature t. Defaults follow the paper. In `run` the reference is the teacher.
    """

    student: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """The cross-entropy's share of the loss; the rest is the teacher's."""
    temperature: Positive = 1.0
    """t, by which the logits of both are divided for the KL. It is weighed with t^2, so that its gradient stays of the
    same size at every temperature (Hinton, Vinyals and Dean, 2015)."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """How many of the teacher's most probable tokens are told apart; all others count as one, with the sum of their
    probabilities. null: the whole vocabulary."""
    outputs: Literal["auto", "stored", "online"] = "auto"
    """stored: the teacher's outputs for all training sequences are computed once, and read by every training of the
    run. online: the teacher passes every batch anew. auto: what takes less time by an estimate that is printed."""


class Training(Part):
    """One training of one model."""

    length: Length
    """Tokens, steps or epochs. Whole steps: what is left of the last is not trained on (`left_over_tokens` of its
    training.json)."""
    batch: Batch = Size(64, "sequences")
    """What one optimizer step sees: sequences, or tokens (rounded down to whole sequences)."""
    sequence_length: Annotated[int, Field(ge=2)] = 1024
    """Predicted tokens a sequence, in training and in validation."""
    sampling: Literal["shuffled", "with replacement"] = "shuffled"
    """shuffled: every sequence once an epoch, each epoch in an order of its own. with replacement: sequences that begin
    anywhere, each drawn for itself, as in the paper's GPT-2 experiments; an epoch is as many tokens as there are."""
    attention: Literal["sequence", "document"] = "sequence"
    """How far a token sees back, in training and in validation: to the beginning of its sequence, or of its document
    (behind the last end-of-text), where positions begin anew. document: all models of a run must be able to."""
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
    router_loss: Annotated[Literal["auto"] | bool, BeforeValidator(_flag_or_auto)] = "auto"
    """For mixture-of-experts models: add the load-balancing loss, weighted by the config's coefficient
    (router_aux_loss_coef). auto: where the config says output_router_logits: true. The term is taken over
    each micro-batch, recorded as `router`, and never part of a validation loss."""
    spike: Annotated[float, Field(gt=1)] | None = None
    """A loss above so many times the median of the last 50 steps: go back to the newest checkpoint and leave out the
    sequences since; null: go on."""
    distillation: Distillation | None = None
    """Learn from a teacher too; {} takes the paper's settings. null: from the text alone."""
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
        if self.batch_sequences > BATCH:
            raise ValueError(f"batch: {self.batch} is {self.batch_sequences:,} sequences; give at most {BATCH:,}")
        if self.micro_batch != "auto" and self.micro_batch > self.batch_sequences:
            raise ValueError(
                f"micro_batch: {self.micro_batch} is more than the batch's {self.batch_sequences} sequences;"
                f" give at most {self.batch_sequences}"
            )
        stored = self.distillation is not None and self.distillation.outputs == "stored"
        if stored and self.sampling == "with replacement":
            raise ValueError(
                "distillation.outputs: stored outputs are those of fixed sequences, and with replacement sequences"
                " begin anywhere; give online, or sampling: shuffled"
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
        """Sequences that pass through the model at once where `auto` is not tried out."""
        return min(self.batch_sequences, 8) if self.micro_batch == "auto" else self.micro_batch

    def steps(self, sequences: int) -> int:
        """Optimizer steps of this length over a training set of `sequences` sequences, rounded down (may be 0)."""
        if self.length.unit == "steps":
            return self.length.count
        if self.length.unit == "tokens":
            return self.length.count // self.batch_tokens
        return int(self.length.amount * sequences) // self.batch_sequences

    def left_over(self, sequences: int) -> int:
        """Tokens of this length that fill no step, and so are not trained on."""
        if self.length.unit == "steps":
            return 0
        tokens = self.length.count if self.length.unit == "tokens" else None
        if tokens is None:
            tokens = int(self.length.amount * sequences) * self.sequence_length
        return tokens - self.steps(sequences) * self.batch_tokens

    def warm_up_steps(self, steps: int) -> int:
        """Steps of warm-up in a training of `steps` steps, rounded down."""
        return self._share(self.schedule.warm_up, steps)

    def decay_steps(self, steps: int) -> int:
        """Steps at the end of a training of `steps` steps over which the rate falls (wsd), rounded down."""
        return self._share(self.schedule.decay, steps)

    def _share(self, size: Size, steps: int) -> int:
        if size.unit == "%":
            return int(size.amount / 100 * steps)
        return size.count if size.unit == "steps" else size.count // self.batch_tokens
