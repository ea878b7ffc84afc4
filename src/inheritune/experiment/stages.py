"""The stages of an arm, trained one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from inheritune.arch import build_random, in_dtype, load_config, load_model, ready
from inheritune.data import Rows, Sequences, sample
from inheritune.distillation import Teacher
from inheritune.experiment.context import RunContext
from inheritune.experiment.rounds import verdict_line
from inheritune.experiment.stage import Stage
from inheritune.experiment.training_run import TrainingRun, run_training
from inheritune.inheritance import (
    REFIT_TOKENS,
    Made,
    TargetSpec,
    derive,
    derive_refitted,
    describe_made,
    insert_blocks,
    refit_length,
    target_config,
)
from inheritune.inheritance.units.narrowing import derive_chosen
from inheritune.recipe import Reference, Size, Training
from inheritune.report import forecast_of
from inheritune.results import RoundResult
from inheritune.runlog import logger, write_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Stages:
    """What the stages of an arm have in common.

    `source` are the arm's weights at its start, `folder` is the arm's, `teacher` is given where the stages learn from
    one. `label` names the stages in messages. `shape` is a model whose shape random weights get, where the settings
    do not say it alone, as units were chosen.
    """

    source: "Reference | PreTrainedModel"
    folder: Path
    context: RunContext
    label: Callable[[Stage], str] = lambda stage: f"round {stage.folder}"
    teacher: Teacher | None = None
    shape: Reference | None = None

    def train(
        self, stages: Sequence[Stage], trainings: Sequence[Training], continues: Callable[[list[RoundResult]], bool],
        after_each: Callable[[list[RoundResult]], object] = lambda _: None, *, say_verdict: bool = True,
    ) -> list[RoundResult]:  # fmt: skip
        """Train and judge stages while `continues`, given the results so far; finished ones are read back.

        `after_each` is called with the results so far. With `say_verdict`, a line says what each gap decides.
        """
        results: list[RoundResult] = []
        while continues(results):
            number = len(results)
            results.append(self.train_one(stages[number], trainings[number], results[-1] if results else None))
            if say_verdict:
                logger.info(verdict_line(results[-1]))
            after_each(results)
        return results

    def train_one(self, stage: Stage, training: Training, previous: RoundResult | None = None) -> RoundResult:
        """Train and judge a stage, or read its result."""
        teacher = None if training.distillation is None else self.teacher
        folder = self.folder / stage.folder
        blocks = None if teacher is None else stage.teacher_blocks(_config_of(self.source), teacher.config)
        run = TrainingRun(
            self.label(stage), folder, lambda: self._build(stage, previous), training, teacher, blocks,
            self._hopeless(folder) if stage.may_stop else None, stage.fading,
        )  # fmt: skip
        result = run_training(run, self.context)
        spent: dict[str, int] = {}
        if stage.insert_trained and previous is not None:
            keys = ["tokens", "steps", "flops"]
            if not shares_outputs(previous.teacher_outputs, training):
                keys.append("teacher_flops")
            keys.append("teacher_head_flops")
            spent = {
                f"{key}_before": value + (getattr(previous, f"{key}_before") or 0)
                for key in keys
                if (value := getattr(previous, key)) is not None
            }
        inherited = None if stage.weights == "random" else list(stage.blocks)
        return RoundResult.of(result, folder=stage.folder, blocks=inherited, **spent)

    def _hopeless(self, folder: Path) -> Callable[[], bool]:
        """Whether the training in a folder cannot match the reference, by the forecast of its curve."""
        judged, tolerance = self.context.judged, self.context.evaluate.tolerance
        assert judged is not None

        def hopeless() -> bool:
            made = forecast_of(folder, is_done=False)
            return made is not None and made.final().low > judged.curve_loss + tolerance

        return hopeless

    def _build(self, stage: Stage, previous: RoundResult | None) -> "PreTrainedModel":
        """The model of a stage before training."""
        context, source = self.context, self.source
        if stage.after_previous:
            source = self._trained(previous)
        if stage.weights == "whole":
            return load_model(source)
        config = _config_of(source)
        if stage.weights == "random":
            config = target_config(config, stage.spec(config)) if self.shape is None else load_config(self.shape)
            trust = isinstance(source, Reference) and source.trust_remote_code
            return build_random(config, context.seed, trust_remote_code=trust)
        spec = stage.spec(config)
        if stage.widths.chooses_units:
            made = self._with_chosen_units(source, spec, stage)
        elif stage.refit is None:
            made = Made(*derive(source, spec, seed=context.seed))
        else:
            target, plan, fitted = derive_refitted(
                source, spec, self._refit_rows(stage.refit), seed=context.seed, tokenizer=context.tokenizer,
                device=context.runtime.device,
            )  # fmt: skip
            made = Made(target, plan, refit=fitted)
        target, notes = made.target, describe_made(made)
        if stage.insert_trained:
            assert previous is not None
            assert previous.blocks is not None
            trained, preserves = load_model(self._trained(previous)), stage.function_preserving
            target, kept = in_dtype(target, "float32"), list(stage.blocks)
            insert_blocks(target, trained, kept, previous.blocks, function_preserving=preserves)
            notes |= {"from_round": previous.folder, "blocks_from_round": previous.blocks}
            notes["function_preserving"] = preserves
        if context.runtime.is_rank0:  # the others may not build at all
            write_json(self.folder / stage.folder / "inherited.json", notes)
        return target

    def _with_chosen_units(self, source: "Reference | PreTrainedModel", spec: TargetSpec, stage: Stage) -> Made:
        """The target whose units are chosen on training text."""
        device, importance = self.context.runtime.device, stage.widths.importance
        with ready(source, self.context.tokenizer, "cpu" if device == "mps" else device, "float32") as (model, _):
            rows = self._refit_rows(stage.refit or REFIT_TOKENS)(model, None)
            done = derive_chosen(model, spec, importance, rows, refits=stage.refit is not None)
        return Made(done.target.cpu(), done.plan, refit=done.refit, units=done.choice)

    def _refit_rows(self, tokens: Size) -> "Callable[..., Rows]":
        """Training sequences for a refit, spread evenly over the text, for the model that is given."""
        text = self.context.train_sequences

        def rows(model: "PreTrainedModel", _: object) -> "Rows":
            length = min(refit_length(model.config), text.sequence_length)
            packing = replace(text.packing, documents=False, long_conversations="truncate")
            pieces = Sequences(text.tokens, length, "inherit.refit", packing=packing)
            return sample(pieces, max(1, tokens.count // length), "inherit.refit", or_fewer=True)

        return rows

    def _trained(self, result: RoundResult | None) -> Reference:
        assert result is not None
        place = str(self.folder / result.folder / "model")
        return Reference(path=place, trust_remote_code=self.context.trust_remote_code)


def shares_outputs(outputs: str | None, training: Training) -> bool:
    """Whether a teacher's outputs (`TrainingResult.teacher_outputs`) are computed once for all stages of an arm.

    With hidden states each stage learns from other blocks.
    """
    asked = training.distillation
    return outputs == "stored" and asked is not None and asked.hidden_states is None


def _config_of(source: "Reference | PreTrainedModel") -> "PretrainedConfig":
    return load_config(source) if isinstance(source, Reference) else source.config
