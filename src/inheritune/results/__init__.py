"""The results of runs, comparisons, analyses and evaluations as typed values, and their JSON files.

Read one with `RunSummary.read(path)`, write it with `.write(path)`. A class's docstring names its file.
"""

from inheritune.results.analysis import (
    Analysis,
    AnalyzedModel,
    AnalyzedText,
    Attention,
    AttentionMap,
    Block,
    Distances,
    Figure,
    Gradients,
    Head,
    Maps,
    ModelFigures,
)
from inheritune.results.comparison import (
    Arm,
    ArmResult,
    Comparison,
    Failure,
    JudgedArm,
    PublishedFigures,
    SeedSummary,
    Stage,
)
from inheritune.results.evaluation import (
    EvaluatedModel,
    EvaluatedText,
    EvaluationResult,
    Harness,
    PublishedRow,
    TaskScore,
)
from inheritune.results.files import Part, ResultFile
from inheritune.results.run import (
    Calibration,
    Continuations,
    Control,
    Dropped,
    Inherited,
    Lineage,
    Manifest,
    Outcome,
    ReferenceSummary,
    Round,
    RunState,
    RunSummary,
    Samples,
    Selection,
    Start,
    TrainedSummary,
)
from inheritune.results.training import (
    ComparedLoss,
    Loss,
    ModelResult,
    RoundResult,
    Sized,
    Spent,
    TrainingCost,
    TrainingResult,
    TrainingSpent,
    read_judged,
)

__all__ = [
    "Analysis", "AnalyzedModel", "AnalyzedText", "Arm", "ArmResult", "Attention", "AttentionMap", "Block",
    "Calibration", "ComparedLoss", "Comparison", "Continuations", "Control", "Distances", "Dropped", "EvaluatedModel",
    "EvaluatedText", "EvaluationResult", "Failure", "Figure", "Gradients", "Harness", "Head", "Inherited", "JudgedArm",
    "Lineage", "Loss", "Manifest", "Maps", "ModelFigures", "ModelResult", "Outcome", "Part", "PublishedFigures",
    "PublishedRow", "ReferenceSummary", "ResultFile", "Round", "RoundResult", "RunState", "RunSummary", "Samples",
    "SeedSummary", "Selection", "Sized", "Spent", "Stage", "Start", "TaskScore", "TrainedSummary", "TrainingCost",
    "TrainingResult", "TrainingSpent", "read_judged",
]  # fmt: skip
