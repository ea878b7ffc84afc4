"""What a run and a comparison start with: the text as prepared data, and the reference, trained or judged."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
from inheritune.corpus import prepare, remove_left_over
from inheritune.data import (
    Prepared,
    adopt,
    check_tokenizer,
    check_vocabulary,
    nanogpt_files,
    note_beside,
    open_prepared,
)
from inheritune.experiment.context import RunContext, check_framing
from inheritune.experiment.store import once
from inheritune.experiment.training_run import TrainingRun, run_training
from inheritune.recipe import Basis, NewTokenizer, Reference, model_at, reference_training
from inheritune.results import ModelResult
from inheritune.runlog import Terminal, add_lineage, read_mapping
from inheritune.runtime import Runtime
from inheritune.vocabulary import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Setup:
    """Data and reference of `basis` in the folders `data` and `reference`; what is there is read back."""

    basis: Basis
    data: Path
    reference: Path
    runtime: Runtime
    terminal: Terminal

    def prepare(self) -> Prepared:
        """Prepare the text, or open it where it is prepared."""

        def fill() -> None:
            prepare_data(self.basis, self.data, self.terminal.say)

        self.runtime.on_rank0(fill)
        return open_prepared(self.data)

    def context(self, prepared: Prepared, title: str) -> RunContext:
        """The context of all trainings, which trackers show under the run's name `title`."""
        basis = self.basis
        context = RunContext.of(
            basis.train, basis.evaluate, basis.seed, self.runtime, self.terminal, self._tokenizer(prepared), prepared,
            prefix=basis.data.prefix, parallel=basis.hardware.parallel, track=tuple(basis.track), title=title,
            trust_remote_code=basis.reference.trust_remote_code,
        )  # fmt: skip
        judged = self.reference / "evaluation.json"
        if judged.exists():
            check_framing(read_mapping(judged), context.packing, judged)
        return context

    def _tokenizer(self, prepared: Prepared) -> "PreTrainedTokenizerBase":
        tokenizer = _tokenizer(self.basis, self.terminal.say)
        if isinstance(tokenizer, NewTokenizer):
            tokenizer = load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))
        check_tokenizer(prepared, tokenizer, "data")
        return tokenizer

    @property
    def model(self) -> Reference:
        """Where the reference's weights are, once it is made."""
        if self.basis.reference.train is None:
            return self.basis.reference
        return Reference(path=str(self.reference / "model"))

    def judge_reference(self, context: RunContext, prepared: Prepared, manifest: Path) -> ModelResult:
        """The reference's result; it is trained first if the recipe says so. `manifest` records where it came from."""
        if self.basis.reference.train is not None:
            result: ModelResult = self._train(context)
        else:
            file = self.reference / "evaluation.json"
            result = once(self.runtime, file, ModelResult, lambda: self._judge(context, prepared))
        lineage = {
            "reference": self.basis.reference.title,
            "revision": result.revision,
            "data": prepared.checksums,
            "left_over_tokens": context.left_over(),
        }
        self.runtime.on_rank0(lambda: add_lineage(manifest, lineage))
        return result

    def _train(self, context: RunContext) -> ModelResult:
        new, basis = self.basis.reference.train, self.basis
        assert new is not None
        tokenizer, length = context.tokenizer, basis.train.sequence_length
        config = new_config(new.model, vocabulary_size(tokenizer), special_tokens(tokenizer), length)
        settings = reference_training(basis, new)
        run = TrainingRun("reference", self.reference, lambda: build_random(config, basis.seed), settings)
        return run_training(run, context, None)

    def _judge(self, context: RunContext, prepared: Prepared) -> ModelResult:
        began, origin = time.monotonic(), self.basis.reference
        self.terminal.say(f"reference: loading and evaluating {origin.title}")
        model = load_model(origin)
        check_vocabulary(prepared, model.config.vocab_size, origin.title)
        check_tokenizer_fits(context.tokenizer, model.config, origin.title)
        evaluation = context.judge(in_dtype(model, "float32"))
        result = ModelResult(
            name="reference",
            layers=layer_count(model.config),
            parameters=parameter_count(model),
            val_loss=evaluation.loss.value,
            val_loss_se=evaluation.loss.error,
            validation_sequences=len(evaluation.losses),
            revision=getattr(model.config, "_commit_hash", None),
            wall_seconds=round(time.monotonic() - began, 3),
            sequence_losses=list(evaluation.losses),
            **context.framing,
        )
        self.terminal.say(f"reference: {result.layers} blocks, validation loss {result.val_loss:.4f}")
        return result


def prepare_data(basis: Basis, out: Path, say: Callable[[str], None], *, compare: bool = False) -> Prepared:
    """Fill `out` with the recipe's data, or link it to where they are.

    Data that is there already is verified; NAME-verified.json beside it records that, so that it is not read each time.
    With `compare` it must be of the same request; in a run's folder its recipe ensures that.
    Raises InputError for text, tokens or a tokenizer that cannot be used.
    """
    data, note = basis.data, note_beside(out)
    if not compare and out.exists() and any(out.iterdir()):
        remove_left_over(out)
        prepared = open_prepared(out)
        prepared.verify(note)
        return prepared
    files = data.tokens or (nanogpt_files(data.prepared) if data.prepared is not None else None)
    if data.prepared is not None and files is None:
        open_prepared(data.prepared).verify(note)
        out.symlink_to(data.prepared.resolve(), target_is_directory=True)
        return open_prepared(out)
    tokenizer = _tokenizer(basis, say)
    if files is not None:
        assert not isinstance(tokenizer, NewTokenizer)  # the recipe's check
        say("data: reading the token files")
        return adopt(files, tokenizer, out)
    return prepare(data, tokenizer, out, seed=basis.seed, say=say)


def _tokenizer(basis: Basis, say: Callable[[str], None]) -> "PreTrainedTokenizerBase | NewTokenizer":
    """The reference's tokenizer, or the settings of one that is trained on the text."""
    new = basis.reference.train
    if new is None:
        return load_tokenizer(basis.reference, say)
    if isinstance(new.tokenizer, NewTokenizer):
        return new.tokenizer
    return load_tokenizer(model_at(new.tokenizer, "reference.train.tokenizer"))
