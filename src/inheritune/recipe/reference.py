"""The recipe's `reference`: the large model, taken from somewhere or made first."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from inheritune.optimizers import AnyOptimizer, read_optimizer
from inheritune.recipe.training import Schedule
from inheritune.settings.part import Part
from inheritune.settings.size import Batch, In, Length, Size


class NewTokenizer(Part):
    """A byte-level BPE tokenizer trained on the recipe's text."""

    vocabulary: Annotated[int, Field(ge=257, le=2**20)]
    """Entries: the 256 bytes, the end-of-text token, and merges."""


class NewReference(Part):
    """A reference trained from random weights on the recipe's data, as the paper does for GPT-2."""

    model: dict[str, Any]
    """A transformers config: `model_type` and its fields, e.g. {model_type: gpt2, n_layer: 12, n_embd: 384, n_head: 6}.
    The vocabulary size comes from the tokenizer."""
    tokenizer: NewTokenizer | str
    """{vocabulary: N} to train one on the data, or a hub id, folder or .gguf file to take it from."""
    length: Length | None = None
    """How long the reference is trained. Default: as long as the targets (`train.length`)."""
    optimizer: AnyOptimizer | None = None
    """Default: `train.optimizer`."""
    schedule: Schedule | None = None
    """Default: `train.schedule`."""


class Tuning(Part):
    """Training of the reference on the recipe's training text before anything else. The tuned reference is the source
    of the blocks, the teacher, and the model that targets are compared with. Keys that are not given are those of
    `train`, without its distillation.
    """

    length: Length = Size(1, "epochs")
    """How long the reference is trained."""
    batch: Batch | None = None
    """The batch of one optimizer step. Default: `train.batch`."""
    optimizer: AnyOptimizer = read_optimizer({"learning_rate": 1e-4})
    """The optimizer's settings."""
    schedule: Schedule | None = None
    """Default: `train.schedule`."""
    held_out: Annotated[Size, In("%")] = Size(10, "%")
    """The share of the training text, from its end, that tells when to stop: the weights are those with the lowest loss
    on it, or the reference's own where tuning gains nothing. Targets are trained on all of the text."""

    @model_validator(mode="after")
    def _part_is_held_out(self) -> Self:
        if self.held_out.amount > 50:
            raise ValueError(f"held_out: {self.held_out} leaves little to train on; give at most 50%")
        return self


class Reference(Part):
    """The large model."""

    path: Annotated[str, Field(min_length=1)] | None = None
    """A hub id, a folder with a Hugging Face checkpoint, or a .gguf file (which is dequantised)."""
    revision: str | None = None
    """The hub revision: a branch, tag or commit."""
    tokenizer: str | None = None
    """Where the tokenizer is, if not with the model."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint. Only for sources that you trust: it can do anything you can."""
    train: NewReference | None = None
    """Instead of `path`: make the reference first."""
    tune: Tuning | None = None
    """Train the reference on the recipe's text first; {} takes the defaults. null: take it as it is."""

    @property
    def is_trained(self) -> bool:
        """Whether weights are trained for it, from random ones or its own."""
        return self.train is not None or self.tune is not None

    @property
    def title(self) -> str:
        """The name that messages and pages use."""
        return self.path if self.path is not None else "reference trained by this run"


def _from_string(value: Any) -> Any:
    """A plain string is a path; exactly one of `path` and `train` says where the reference comes from."""
    if isinstance(value, str):
        value = {"path": value}
    if isinstance(value, dict) and value.keys() <= Reference.model_fields.keys():  # else the unknown key is named
        origins = {key for key in ("path", "train") if value.get(key) is not None}
        if len(origins) != 1:
            raise ValueError(
                "give a hub id, a folder or a .gguf file (path), or {train: ...} to make one: exactly one of them"
            )
        own = ("revision", "tokenizer", "trust_remote_code", "tune")
        extra = sorted(key for key in own if value.get(key) or isinstance(value.get(key), dict))
        if "train" in origins and extra:
            raise ValueError(f"{', '.join(extra)} goes with path, not with train")
    return value


AnyReference = Annotated[Reference, BeforeValidator(_from_string)]
