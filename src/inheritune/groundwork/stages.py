"""The stages that come first: the data in a folder, the reference judged (and trained, if it is to be made)."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    build_random,
    check_tokenizer_fits,
    in_dtype,
    layer_count,
    load_model,
    load_tokenizer,
    new_config,
    parameter_count,
    special_tokens,
)
from inheritune.arm import Arm, Conditions, check_framing, run_arm
from inheritune.data import Prepared, check_tokenizer, check_vocabulary, open_prepared
from inheritune.evaluation import Evaluation
from inheritune.groundwork.text import prepare_data
from inheritune.recipe import Basis, NewReference, NewTokenizer, Reference, Training
from inheritune.runlog import Terminal, read_json, read_mapping, write_json
from inheritune.runtime import Runtime
from inheritune.vocabulary import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_JUDGED = ("layers", "parameters", "val_loss", "val_loss_se", "validation_sequences", "wall_seconds", "sequence_losses")
"""Keys of a judged reference's evaluation.json that are needed."""


@dataclass(frozen=True)
class Groundwork:
    """Data and reference of `basis` in the folders `data` and `reference`; what is there is read back."""

    basis: Basis
    data: Path
    reference: Path
    runtime: Runtime
    terminal: Terminal

    def prepare(self) -> tuple[Prepared, float]:
        """The data stage: the prepared tokens, and the seconds that it took."""

        def fill() -> None:
            prepare_data(self.basis, self.data, self.terminal.say)

        self.runtime.on_rank0(fill)
        found = open_prepared(self.data)
        return found, found.manifest.get("seconds", 0.0) if self.basis.data.sources else 0.0

    def conditions(self, prepared: Prepared, title: str) -> Conditions:
        """What all trainings have in common; trackers show them under the run's name `title`."""
        basis = self.basis
        conditions = Conditions.of(
            basis.train, basis.evaluate, basis.seed, self.runtime, self.terminal, self._tokenizer(prepared), prepared,
            basis.hardware.parallel, basis.data.prefix,
        )  # fmt: skip
        judged = self.reference / "evaluation.json"
        if judged.exists():
            check_framing(read_mapping(judged), conditions.packing, judged)
        return replace(
            conditions, track=tuple(basis.track), title=title, trust_remote_code=basis.reference.trust_remote_code
        )

    def _tokenizer(self, prepared: Prepared) -> "PreTrainedTokenizerBase":
        new = self.basis.reference.train
        if new is None:
            tokenizer = load_tokenizer(self.basis.reference, self.terminal.say)
        elif isinstance(new.tokenizer, NewTokenizer):
            tokenizer = load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))
        else:
            tokenizer = load_tokenizer(Reference(path=new.tokenizer))
        check_tokenizer(prepared, tokenizer, "data")
        return tokenizer

    @property
    def place(self) -> Reference:
        """Where the reference's weights are, once it is made."""
        if self.basis.reference.train is None:
            return self.basis.reference
        return Reference(path=str(self.reference / "model"))

    def judge_reference(self, conditions: Conditions, prepared: Prepared) -> tuple[dict[str, Any], Evaluation]:
        """The reference's figures and losses; it is trained first if the recipe says so."""
        if self.basis.reference.train is not None:
            found = self._train(conditions)
        else:
            judged = self.reference / "evaluation.json"
            before = self.runtime.on_rank0(lambda: read_json(judged, *_JUDGED) if judged.exists() else None)
            found = before or self._judge(conditions, prepared)
        return found, Evaluation(tuple(found["sequence_losses"]))

    def _train(self, conditions: Conditions) -> dict[str, Any]:
        new, basis = self.basis.reference.train, self.basis
        assert new is not None
        tokenizer = conditions.tokenizer
        config = new_config(
            new.model, vocabulary_size(tokenizer), special_tokens(tokenizer), basis.train.sequence_length
        )
        settings = reference_training(basis, new)
        arm = Arm("reference", self.reference, lambda: build_random(config, basis.seed), settings)
        return run_arm(arm, conditions, None)

    def _judge(self, conditions: Conditions, prepared: Prepared) -> dict[str, Any]:
        began, origin = time.monotonic(), self.basis.reference
        self.terminal.say(f"reference: loading and evaluating {origin.title}")
        model = load_model(origin)
        check_vocabulary(prepared, model.config.vocab_size, origin.title)
        check_tokenizer_fits(conditions.tokenizer, model.config, origin.title)
        evaluation = conditions.judge(in_dtype(model, "float32"))
        found = {
            "name": "reference",
            "layers": layer_count(model.config),
            "parameters": parameter_count(model),
            "val_loss": evaluation.loss.value,
            "val_loss_se": evaluation.loss.error,
            "validation_sequences": len(evaluation.losses),
            "revision": getattr(model.config, "_commit_hash", None),
            "wall_seconds": round(time.monotonic() - began, 3),
            "sequence_losses": list(evaluation.losses),
            **conditions.framing,
        }
        self.terminal.say(f"reference: {found['layers']} blocks, validation loss {found['val_loss']:.4f}")
        self.runtime.on_rank0(lambda: write_json(self.reference / "evaluation.json", found))
        return found


def reference_training(basis: Basis, new: NewReference) -> Training:
    """How a reference is trained that is made first: as the targets, less their teacher, but for what is its own."""
    own = {name: value for name in ("length", "optimizer", "schedule") if (value := getattr(new, name)) is not None}
    return basis.train.model_copy(update={**own, "distillation": None})
