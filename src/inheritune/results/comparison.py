"""The results of a comparison: result.json of an arm, comparison.json."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Tag

from inheritune.results.files import ResultFile, ResultPart
from inheritune.results.run import ReferenceSummary
from inheritune.results.training import ClusterLosses, ComparedLoss, Decision, Sized, Spent, TrainingSpent


class ArmStage(Sized):
    """One training of an arm."""

    folder: str
    """From that of the arm's seed."""
    tokens: int
    steps: int
    flops: int
    seconds: float
    val_loss: float
    decision: Decision | None = None


class _Seed(ComparedLoss, TrainingSpent, Sized):
    """An arm with one seed. Costs are those of all stages."""

    seed: int
    blocks: list[int] | None
    """The source's blocks that it began with; None where it began without any."""
    best_val_loss: float
    """The loss of the best weights on the way."""
    best_val_loss_se: float | None
    best_step: int
    flops_to_match: int | None
    """FLOPs of all stages until the reference was matched; None where it was not."""
    model: str
    """Folder of the model, from that of the arm's seed."""
    stages: list[ArmStage]


class SeedSummary(_Seed):
    """An arm with one seed in comparison.json."""

    folder: str
    """From that of the comparison."""


class ArmResult(ResultFile, ClusterLosses, _Seed):
    """result.json: an arm with one seed, and the losses of all clusters."""

    VERSION: ClassVar[int] = 2

    prefix: list[int] | None = None
    validation_sequences: int
    wall_seconds: float
    best_cluster_losses: list[float]


class Failure(ResultPart):
    """Why an arm has no result with a seed."""

    seed: int
    error: str


class Arm(ResultPart):
    """An arm in comparison.json that has no result yet."""

    name: str
    start: str
    """The kind of its start."""
    state: str
    """waiting, failed or finished."""
    failures: list[Failure]
    allow_unequal: str | None
    """Why its budget differs."""
    verdict: str = ""


class JudgedArm(Arm, ComparedLoss, Spent, Sized):
    """An arm in comparison.json with a result: means over its seeds.

    Each `_se` is the standard error over the clusters of the validation text. Each `_margin_seeds` is half the width of
    the 95 % interval over seeds (Student's t; None: one seed).
    """

    blocks: list[int] | None
    val_loss_margin_seeds: float | None
    best_val_loss: float
    best_val_loss_se: float | None
    best_val_loss_margin_seeds: float | None
    flops_to_match: int | float | None
    model: str
    """Folder of the first seed's model."""
    runs: list[SeedSummary]
    equal: bool
    """Whether its tokens are the comparison's budget."""
    random: str | None = None
    """The random arm of the same size that it is measured by; absent where there is none."""
    over_random: float | None = None
    """Its loss less that arm's, in nats a token, paired by cluster and seed."""
    over_random_se: float | None = None
    """The standard error over the clusters of the validation text."""
    over_random_interval: tuple[float, float] | None = None
    """The 95 % interval over the clusters of the validation text."""
    over_random_margin_seeds: float | None = None
    speed_up: float | None = None
    """That arm's tokens over the tokens after which it has that arm's final loss; None where it has it from the start.
    Absent where it ends behind that arm."""
    speed_up_range: tuple[float | None, float | None] | None = None
    """The lowest and the highest speed-up that the noise of the curves allows; None: not reached, and from the start.
    """


def _kind(arm: Any) -> str:
    has_result = "val_loss" in arm if isinstance(arm, Mapping) else isinstance(arm, JudgedArm)
    return "judged" if has_result else "waiting"


class PublishedFigures(ResultPart):
    """Figures of a paper that are shown beside the arms."""

    source: str
    figure: str
    values: dict[str, float]
    """By the name of the arm that they belong to; other names are rows of their own."""


class Comparison(ResultFile):
    """comparison.json."""

    REMEDY = "run the comparison again, which writes it anew"
    VERSION: ClassVar[int] = 2

    finished: bool
    reference: ReferenceSummary
    arms: list[Annotated[Annotated[JudgedArm, Tag("judged")] | Annotated[Arm, Tag("waiting")], Discriminator(_kind)]]
    budget_tokens: int
    seeds: list[int]
    tolerance: float
    validation_sequences: int
    validation_documents: int
    curve_sequences: int
    """Validation sequences that the curves are taken on."""
    published: PublishedFigures | None

    @property
    def judged(self) -> list[JudgedArm]:
        """The arms that have a result."""
        return [arm for arm in self.arms if isinstance(arm, JudgedArm)]
