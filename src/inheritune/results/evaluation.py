"""The results of `evaluate` (evaluation.json) and of a run's tasks (tasks.json)."""

from inheritune.results.files import ResultFile, ResultPart


class TaskScore(ResultPart):
    """A model's figure on a task."""

    metric: str
    shots: int | None
    value: float
    se: float | None = None


class EvaluatedModel(ResultPart):
    """A model on text and tasks. Figures on text are absent where there was none.

    Bits per byte are None where the number of bytes is not known, the perplexity where it is too large for a number.
    """

    name: str
    path: str | None
    """None: a model in memory."""
    parameters: int
    layers: int
    val_loss: float | None = None
    """In nats a token."""
    val_loss_se: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    bits_per_byte_se: float | None = None
    tasks: dict[str, TaskScore]


class EvaluatedText(ResultPart):
    """The text that models were judged on. Sequences and tokens are None where tokenizers make different numbers."""

    source: str
    sequences: int | None
    sequence_length: int
    tokens: int | None
    bytes: int | None
    """None where it is not known."""
    documents: int | None = None
    """Pieces of one file count as one."""
    counted: str | None = None
    """What of conversations counts, in words; None for text, all of which does."""


class Harness(ResultPart):
    """What scores of tasks depend on besides the model."""

    version: str
    """Of lm-evaluation-harness."""
    limit: int | None
    """Questions of each task; None: all."""
    pinned: str | None = None
    """The version that the groups asked for are made for; None where none is asked for."""
    own: list[str] = []
    """Tasks that are task files of the user's."""


class PublishedRow(ResultPart):
    """A model as a paper scores it."""

    name: str
    source: str
    tasks: dict[str, TaskScore]


class EvaluationResult(ResultFile):
    """evaluation.json of `evaluate`, tasks.json of a run."""

    REMEDY = "delete it, and evaluate again"

    text: EvaluatedText | None
    harness: Harness | None
    models: list[EvaluatedModel]
    published: list[PublishedRow]
