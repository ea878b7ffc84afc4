"""What all trainings of a run have in common, so that their results can be compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import build_hollow
from inheritune.data import Clusters, Packing, Prepared, Sequences, clusters_of, packing_of, placement_line
from inheritune.errors import InputError
from inheritune.evaluation import Evaluation, judge
from inheritune.recipe import Evaluate, Training
from inheritune.runlog import logger
from inheritune.runtime import Runtime
from inheritune.training import SHARDED, choose, planned_steps

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class RunContext:
    """Settings, text and machine of a run.

    `track` names the trackers that show its trainings, under the run's name `title`. With `trust_remote_code`, its
    models are loaded with the code that came with the reference. `clusters` are those of the validation text. `judged`
    are the losses of the reference, once they are known: each training is then compared with them.
    """

    training: Training
    evaluate: Evaluate
    seed: int
    runtime: Runtime
    tokenizer: "PreTrainedTokenizerBase"
    prepared: Prepared
    train_sequences: Sequences
    validation_sequences: Sequences
    clusters: Clusters
    parallel: str = "auto"
    track: tuple[str, ...] = ()
    title: str = "inheritune"
    trust_remote_code: bool = False
    judged: Evaluation | None = None

    @classmethod
    def of(
        cls, training: Training, evaluate: Evaluate, seed: int, runtime: Runtime,
        tokenizer: "PreTrainedTokenizerBase", prepared: Prepared, *, prefix: str = "auto", **more: Any,
    ) -> "RunContext":  # fmt: skip
        """The context of trainings on prepared data; `more` are further fields.

        Raises InputError when the data is too small for one sequence or one step.
        """
        packing = packing_of(prepared, tokenizer, attention=training.attention, prefix=prefix)
        length, place = training.sequence_length, "data: training text"
        train = Sequences(prepared.tokens("train"), length, place, training.sampling, packing)
        validation = Sequences(prepared.tokens("validation"), length, "data.validation", packing=packing)
        planned_steps(training, train)
        for split, text in (("training", train), ("validation", validation)):
            if words := placement_line(text):
                logger.info(f"data: {split}: {words}")
        if packing.documents and not prepared.manifest["documents"]["train"]:
            what = f"document, and the data has no end-of-text token ({packing.end_of_text})"
            raise InputError("train.attention", what, "give sequence")
        clusters = clusters_of(validation, prepared.validation_origins)
        return cls(training, evaluate, seed, runtime, tokenizer, prepared, train, validation, clusters, **more)

    @property
    def packing(self) -> Packing:
        """How the text becomes the input of all models."""
        return self.train_sequences.packing

    @property
    def framing(self) -> dict[str, Any]:
        """The prefix as results record it, so that none is continued with another one; empty without a prefix."""
        return {"prefix": list(self.packing.prefix)} if self.packing.prefix else {}

    def judge(self, model: "PreTrainedModel", is_spent: bool = False) -> Evaluation:
        """The model's losses on all validation sequences. `is_spent`: nobody needs the model afterwards."""
        settings = self.training
        return judge(
            model, self.validation_sequences, self.runtime, clusters=self.clusters, precision=settings.precision,
            micro_batch=settings.micro_batch_sequences, parallel=self.parallel,
            curve_sequences=self.evaluate.sequences, is_spent=is_spent,
        )  # fmt: skip

    def load(self, build: "Callable[[], PreTrainedModel]") -> "PreTrainedModel":
        """The model that `build` makes. Where it will be sharded, only the first process makes it: the others have it
        without weights, and get their parts of these when it is sharded (`training.parallelize`).
        """
        if self.runtime.world_size == 1 or self.parallel == "ddp":
            return build()
        made: list[PreTrainedModel] = []

        def first() -> "tuple[type[PreTrainedModel], PretrainedConfig, torch.dtype] | None":
            made.append(build())
            model = made[0]
            # code that came with a model need not be there by the same name in another process
            is_sharded = choose(self.parallel, model, self.runtime) in SHARDED and not model.is_remote_code()
            return (type(model), model.config, model.dtype) if is_sharded else None

        found = self.runtime.on_rank0(first)
        if made:
            return made[0]
        return build() if found is None else build_hollow(*found).eval()


def check_framing(result: Mapping[str, Any], packing: Packing, file: Path) -> None:
    """Raise InputError where a result was computed with another prefix, as by versions that had none."""
    before, now = result.get("prefix") or [], list(packing.prefix)
    if before != now:
        words = [f"with the tokens {one} before each sequence" if one else "without a prefix" for one in (before, now)]
        raise InputError(
            str(file), f"was computed {words[0]}, and this call computes {words[1]}",
            "give another folder, or set data.prefix to none for no prefix and to auto for the tokenizer's",
        )  # fmt: skip
