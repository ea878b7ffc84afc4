"""The results of a run: summary.json, selection.json, samples.json; and with what it was made: manifest.json."""

from typing import Any, ClassVar

from pydantic import Field

from inheritune.results.files import ResultFile, ResultPart
from inheritune.results.shape import ShapeChoice
from inheritune.results.training import ComparedLoss, Loss, Sized, TrainingSpent, UntunedReference


class ReferenceSummary(Loss, Sized):
    """The reference of a run or a comparison. What its training cost is absent where it was only judged."""

    name: str
    folder: str | None = None
    """Folder of its results, from that of the comparison; absent in a run, where it is `reference`."""
    tokens: int | None = None
    epochs: float | None = None
    steps: int | None = None
    left_over_tokens: int | None = None
    flops: int | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    untuned: UntunedReference | None = None
    """The reference as it was given; absent where it was not tuned."""
    tuned_step: int | None = None
    """0: tuning gained nothing, and the reference is as it was given."""


class TrainedSummary(ComparedLoss, TrainingSpent, Sized):
    """What a round and a control have in common."""

    tokens_before: int | None = None
    """The cost of the earlier rounds that it resumed from; absent where it began with the reference."""
    steps_before: int | None = None
    flops_before: int | None = None
    teacher_flops_before: int | None = None
    teacher_head_flops_before: int | None = None
    model: str
    """Folder of the model, from that of the run."""

    @property
    def all_tokens(self) -> int:
        """Training tokens, earlier rounds included."""
        return self.tokens + (self.tokens_before or 0)

    @property
    def all_flops(self) -> int:
        """Training FLOPs, earlier rounds included."""
        return self.flops + (self.flops_before or 0)


class Round(TrainedSummary):
    """A round in summary.json."""

    blocks: list[int]
    """The reference's blocks that it began with."""


class Control(TrainedSummary):
    """A control in summary.json."""

    name: str
    """`random` or `reference-continued`."""
    over_result: float | None = None
    """Its loss less the result's, in nats a token, paired by cluster. Absent until all rounds are done."""
    over_result_se: float | None = None
    over_result_interval: tuple[float, float] | None = None
    """The 95 % interval over the clusters of the validation text; None for a single cluster."""
    behind_until: int | None = None
    """The training tokens up to which its curve is above the result's (0: at no point). Absent where the result has
    earlier rounds, and where a curve is too short."""


class TokensToMatch(ResultPart):
    """How many training tokens would match the reference, by a forecast from a training's curve (80 % interval).

    None: more than `most`.
    """

    trained: int
    """Those of the training itself."""
    middle: int | None
    low: int | None
    high: int | None
    most: int
    """How far the forecast looks."""
    loss_at_most: float
    """The validation loss with so many tokens."""


class Outcome(ComparedLoss, Sized):
    """The round that is a run's result."""

    model: str
    over_untuned: float | None = None
    """Its loss less that of the reference before tuning, paired by cluster. Absent where that was not tuned."""
    over_untuned_se: float | None = None
    tokens_to_match: TokensToMatch | None = None
    """Absent where it has matched, and where its curve gives no forecast."""


class VocabularyResult(ResultFile):
    """vocabulary/trimmed.json: the tokens that a run keeps, and what that costs on validation text."""

    reference: str
    """The reference's name."""
    tokens: int
    reference_tokens: int
    parameters: int
    reference_parameters: int
    documents: int
    """Validation documents that both were judged on."""
    longer: float
    """By which share they are longer in tokens."""
    same: float
    """The share of the reference's tokens that the trimmed tokenizer finds at the same places."""
    nats_per_byte: float
    reference_nats_per_byte: float
    gap: float
    """The trimmed reference's loss less the reference's, in nats a byte."""
    gap_se: float | None


class RunState(ResultPart):
    """What is known of a run, finished or not."""

    finished: bool
    reference: ReferenceSummary | None
    """None until it is judged."""
    rounds: list[Round]
    controls: list[Control]
    result: Outcome | None
    """The best round so far; None before the first one is judged."""
    tolerance: float
    """The gap up to which a round matches the reference, in nats a token."""
    validation_sequences: int | None
    validation_documents: int | None
    vocabulary: VocabularyResult | None = None
    """What became of the vocabulary; absent where it is the reference's."""
    wall_seconds: float | None = None
    """The time of all stages, as far as they were finished."""
    peak_memory_bytes: int | None = None


class RunSummary(ResultFile, RunState):
    """summary.json."""

    REMEDY = "delete it and run the recipe again, which writes it anew"
    VERSION: ClassVar[int] = 2

    reference: ReferenceSummary
    result: Outcome
    validation_sequences: int
    validation_documents: int
    wall_seconds: float
    peak_memory_bytes: int


class Dropped(ResultPart):
    """A block that a choice dropped."""

    block: int
    loss: float | None
    """The loss without it and those dropped before, in nats a token; None where it was not measured."""
    increase: float | None


class Calibration(ResultPart):
    """The text that a choice of blocks was measured on."""

    sequences: int
    sequence_length: int


class BlockChoice(ResultFile):
    """selection.json: a measured choice of blocks."""

    choose: str
    """auto, rank, influence or loss."""
    blocks: list[int]
    """Those kept."""
    dropped: list[Dropped]
    """The others, in the order in which they were dropped."""
    lazy_layers: list[int]
    reason: str
    precision: str
    calibration: Calibration
    recovery_steps: int
    loss: float | None
    """The loss with all blocks, in nats a token; None where only single blocks were looked at."""
    trials: int
    seconds: float


class RecoveryDecision(ResultFile):
    """recovery.json: what a recipe's `recovery` decided, and why."""

    kind: str
    """distilled, plain or paper."""
    settings: dict[str, Any]
    """By dotted key of the recipe."""
    reasons: list[str]
    """In sentences."""


class Refit(ResultPart):
    """How kept blocks were fitted to the states that the source has behind the dropped blocks."""

    matrices: int
    """How many were changed."""
    sequences: int
    sequence_length: int
    ridge: float


class UnitChoice(ResultPart):
    """Which units a narrower model keeps, and how they were chosen."""

    kept: dict[str, int]
    """How many neurons, heads and experts of each block, and how many hidden channels."""
    criteria: dict[str, str]
    """By axis."""
    rotated: bool
    """Whether the hidden channels are the first principal components of the source's."""


class Inherited(ResultFile):
    """Which weights a model began with, to be read: inherited.json of a round or an arm, inheritance.json elsewhere."""

    blocks: list[int]
    total: int = Field(validation_alias="of")
    """The source's blocks; `of` in the file."""
    tensors_copied: int | None = None
    tensors_fresh: int | None = None
    """Those that were drawn anew."""
    tensors_dropped: int | None = None
    refit: Refit | None = None
    """Absent where the blocks have the source's own weights."""
    units: UnitChoice | None = None
    """Absent where all units were kept, or the first ones."""
    shape: ShapeChoice | None = None
    """Absent where the recipe says the shape."""
    from_round: str | None = None
    """Folder of the round that it resumed from; absent where it began with the reference."""
    blocks_from_round: list[int] | None = None


class Continuations(ResultPart):
    """What one model continues the prompts with, in their order."""

    name: str
    continuations: list[str]


class Samples(ResultFile):
    """samples.json: the same prompts, continued by several models."""

    prompts: list[str]
    models: list[Continuations]
    new_tokens: int
    as_messages: bool = False
    """Whether the prompts are users' messages, in the models' chat template."""


class Start(ResultPart):
    """One start of a run or a comparison, as manifest.json records it."""

    command: list[str] = []
    versions: dict[str, str] = {}
    machine: str = ""
    gpu: str | None = None
    device: str = ""
    threads: int | None = None
    processes: int = 1
    seed: int | None = None


class Lineage(ResultPart):
    """What a run was made of."""

    revision: str | None = None
    """The reference's commit on the hub."""
    data: dict[str, str] = {}
    """SHA-256 of each file of tokens, by its name."""


class Manifest(ResultFile):
    """manifest.json, to be read; `runlog` writes it."""

    REMEDY = "delete it; it is then written anew"

    starts: list[Start] = []
    lineage: Lineage = Lineage()
