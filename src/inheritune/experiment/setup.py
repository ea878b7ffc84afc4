"""What a run and a comparison start with: the text as prepared data, and the reference, trained or judged."""

import time
from dataclasses import dataclass, replace
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
from inheritune.data import Prepared, adopt, check_tokenizer, check_vocabulary, note_beside, open_prepared
from inheritune.evaluation import Evaluation, few_documents, figures, gap, trained_reference
from inheritune.experiment.context import RunContext, check_framing
from inheritune.experiment.plan import token_files
from inheritune.experiment.store import once
from inheritune.experiment.training_run import TrainingRun, run_training
from inheritune.experiment.tuning import tune
from inheritune.recipe import Basis, NewTokenizer, Reference, model_at, reference_training
from inheritune.results import ModelResult, TunedReference, UntunedReference
from inheritune.runlog import add_lineage, logger, read_mapping
from inheritune.runtime import Runtime
from inheritune.token_ids import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Setup:
    """Data and reference of `basis`, whose results are in `folder`; what is there is read back.

    `data` and `reference` are their folders, which comparisons share with others.
    """

    basis: Basis
    folder: Path
    data: Path
    reference: Path
    runtime: Runtime

    @property
    def model(self) -> Reference:
        """Where the reference's weights are, once it is judged: its own where it is not trained, or gains nothing."""
        return trained_reference(self.basis.reference, self.reference)

    def prepared(self) -> Prepared:
        """Prepare the text, or open it where it is prepared."""

        def fill() -> None:
            prepare_data(self.basis, self.data)

        self.runtime.on_rank0(fill)
        return open_prepared(self.data)

    def context(self) -> RunContext:
        """The context of all trainings, with the text prepared. Trackers show them under the folder's name."""
        basis, runtime, prepared = self.basis, self.runtime, self.prepared()
        tokenizer = _tokenizer(basis)
        if isinstance(tokenizer, NewTokenizer):
            tokenizer = load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))
        check_tokenizer(prepared, tokenizer, "data")
        context = RunContext.of(
            basis.train, basis.evaluate, basis.seed, runtime, tokenizer, prepared,
            prefix=basis.data.prefix, parallel=basis.hardware.parallel, track=tuple(basis.track),
            title=self.folder.resolve().name, trust_remote_code=basis.reference.trust_remote_code,
        )  # fmt: skip
        words = None if basis.data.sources else few_documents(context.clusters, "validation text")
        if words:  # preparing says it of sources
            logger.warning(words)
        judged = self.reference / "evaluation.json"
        if judged.exists():
            check_framing(read_mapping(judged), context.packing, judged)
        return context

    def judge_reference(self, context: RunContext) -> tuple[ModelResult, RunContext]:
        """The reference's result, and the context with its losses; the recipe may have it trained or tuned first.

        manifest.json records where it came from.
        """
        file = self.reference / "evaluation.json"
        result: ModelResult
        if self.basis.reference.train is not None:
            result = self._train(context)
        elif self.basis.reference.tune is not None:
            result = once(self.runtime, file, TunedReference, lambda: self._tune(context))
        else:
            result = once(self.runtime, file, ModelResult, lambda: self._judge(context, self.basis.reference))
        lineage = {
            "reference": self.basis.reference.title,
            "revision": result.revision,
            "data": context.prepared.checksums,
            # tokens that fill no sequence, which no model of the run sees
            "left_over_tokens": {
                "train": context.train_sequences.left_over,
                "validation": context.validation_sequences.left_over,
            },
        }
        self.runtime.on_rank0(lambda: add_lineage(self.folder / "manifest.json", lineage))
        judged = Evaluation(
            tuple(result.cluster_losses), tuple(result.cluster_tokens), result.validation_documents, result.curve_loss
        )
        return result, replace(context, judged=judged)

    def _train(self, context: RunContext) -> ModelResult:
        new, basis = self.basis.reference.train, self.basis
        assert new is not None
        tokenizer, length = context.tokenizer, basis.train.sequence_length
        config = new_config(new.model, vocabulary_size(tokenizer), special_tokens(tokenizer), length)
        settings = reference_training(basis)
        assert settings is not None
        run = TrainingRun("reference", self.reference, lambda: build_random(config, basis.seed), settings)
        return run_training(run, context)

    def _tune(self, context: RunContext) -> TunedReference:
        """Tune the reference, and judge it before and after; see `recipe.Tuning`."""
        origin = self.basis.reference
        file = self.reference / "untuned" / "evaluation.json"
        untuned = once(self.runtime, file, ModelResult, lambda: self._judge(context, origin))
        tuned = tune(origin, self.basis, context, self.reference)
        judged = self._judge(context, self.model) if tuned.step else untuned
        gained = gap(untuned.cluster_losses, judged.cluster_losses, judged.cluster_tokens)
        logger.info(
            f"reference, tuned: validation loss {judged.val_loss:.4f}, {untuned.val_loss:.4f} before"
            if tuned.step
            else f"reference: tuning on this text gains nothing on the {tuned.sequences} sequences held out, so it is"
            " taken as it is"
        )
        before = UntunedReference.of(
            untuned, gap=gained.value, gap_se=gained.error, gap_interval=gained.interval
        )  # fmt: skip
        return TunedReference.of(
            judged, tuned.cost, name="reference", untuned=before, tuned_step=tuned.step,
            held_out_losses=tuned.losses, wall_seconds=untuned.wall_seconds + tuned.cost.wall_seconds,
        )  # fmt: skip

    def _judge(self, context: RunContext, origin: Reference) -> ModelResult:
        began = time.monotonic()
        logger.info(f"reference: loading and evaluating {origin.title}")
        model = context.load(lambda: in_dtype(load_model(origin), "float32"))
        check_vocabulary(context.prepared, model.config.vocab_size, origin.title)
        check_tokenizer_fits(context.tokenizer, model.config, origin.title)
        evaluation = context.judge(model, is_spent=True)
        result = ModelResult(
            name="reference",
            layers=layer_count(model.config),
            parameters=parameter_count(model),
            **figures(evaluation, None, context.evaluate.tolerance),
            validation_sequences=context.validation_sequences.count,
            revision=getattr(model.config, "_commit_hash", None),
            wall_seconds=round(time.monotonic() - began, 3),
            **context.framing,
        )
        logger.info(f"reference: {result.layers} blocks, validation loss {result.val_loss:.4f}")
        return result


def prepare_data(basis: Basis, out: Path, *, compare: bool = False) -> Prepared:
    """Fill `out` with the recipe's data, or link it to where they are.

    Data that is there already is verified; NAME-verified.json beside it records that, so that it is not read each time.
    With `compare` it must be of the same request; in a run's folder its recipe ensures that.
    Raises InputError for text, tokens or a tokenizer that cannot be used.
    """
    data, note, files = basis.data, note_beside(out), token_files(basis.data)
    if not compare and out.exists() and any(out.iterdir()):
        remove_left_over(out)
        prepared = open_prepared(out)
        prepared.verify(note)
        return prepared
    if data.prepared is not None and files is None:
        open_prepared(data.prepared).verify(note)
        out.symlink_to(data.prepared.resolve(), target_is_directory=True)
        return open_prepared(out)
    tokenizer = _tokenizer(basis)
    if files is not None:
        assert not isinstance(tokenizer, NewTokenizer)  # the recipe's check
        logger.info("data: reading the token files")
        return adopt(files, tokenizer, out)
    return prepare(data, tokenizer, out, seed=basis.seed)


def _tokenizer(basis: Basis) -> "PreTrainedTokenizerBase | NewTokenizer":
    """The reference's tokenizer, or the settings of one that is trained on the text."""
    new = basis.reference.train
    if new is None:
        return load_tokenizer(basis.reference, log=True)
    if isinstance(new.tokenizer, NewTokenizer):
        return new.tokenizer
    return load_tokenizer(model_at(new.tokenizer, "reference.train.tokenizer"))
