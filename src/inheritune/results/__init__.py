"""The results of runs, comparisons, analyses and evaluations as typed values, and their JSON files.

Read one with `RunSummary.read(path)`, write it with `.write(path)`. A class's docstring names its file.
"""

from typing import TYPE_CHECKING

from inheritune import lazy

if TYPE_CHECKING:
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
        ArmStage,
        Comparison,
        Failure,
        JudgedArm,
        PublishedFigures,
        SeedSummary,
    )
    from inheritune.results.evaluation import (
        EvaluatedModel,
        EvaluatedText,
        EvaluationResult,
        Harness,
        PublishedRow,
        TaskScore,
    )
    from inheritune.results.files import ResultFile, ResultPart
    from inheritune.results.run import (
        BlockChoice,
        Calibration,
        Continuations,
        Control,
        Dropped,
        Inherited,
        Manifest,
        Outcome,
        RecoveryDecision,
        ReferenceSummary,
        Refit,
        Round,
        RunState,
        RunSummary,
        Samples,
        Start,
        TokensToMatch,
        TrainedSummary,
        UnitChoice,
        VocabularyResult,
    )
    from inheritune.results.shape import MeasuredSpeed, ShapeCandidate, ShapeChoice
    from inheritune.results.training import (
        ComparedLoss,
        Decision,
        ModelResult,
        RoundResult,
        TrainingCost,
        TrainingResult,
        TrainingSpent,
        TunedReference,
        UntunedReference,
        read_judged,
    )

__getattr__, __dir__ = lazy.exports(__name__)
