"""One training of a run: built, trained, judged, and kept in a folder from which it resumes after a stop."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import (
    build_hollow,
    check_room,
    has_position_table,
    in_dtype,
    load_model,
    logits_width,
    parameter_count,
    parts_of,
    router_loss_of,
    save_model,
    train_padding_rows,
    training_flops_per_token,
)
from inheritune.conversion import keep_frame
from inheritune.data import check_prefix_fits
from inheritune.distillation import DistillationRequest, Teacher, check_has_teacher
from inheritune.evaluation import figures, mean_loss
from inheritune.experiment.context import RunContext, check_framing
from inheritune.experiment.store import once
from inheritune.losses import LossSetup, TeacherNeeds, build_losses
from inheritune.recipe import Reference, Training
from inheritune.results import TrainingCost, TrainingResult
from inheritune.runlog import Trackers, logger, read_mapping, write_json
from inheritune.training import (
    SHARDED,
    Job,
    check_documents_apart,
    lacking_compiler,
    planned_steps,
    train_steps,
    whole_state,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from inheritune.training.job import Score

_WORTH_COMPILING = 1e15  # FLOPs of a training on a CPU, about two hours on two cores


@dataclass(frozen=True)
class TrainingRun:
    """A training: `build` returns the model at its start, on the CPU; `training` are its settings.

    `teacher` is given where the settings have a `distillation`, and only there; `blocks` are those of it that the
    model's blocks come from, where that is known. `gives_up`, `fading`: see `training.Job`.
    """

    name: str
    folder: Path
    build: Callable[[], "PreTrainedModel"] = field(repr=False)
    training: Training
    teacher: Teacher | None = None
    blocks: Sequence[int] | None = None
    gives_up: Callable[[], bool] | None = None
    fading: Sequence[int] = ()


def run_training(run: TrainingRun, context: RunContext) -> TrainingResult:
    """Build, train and judge a model, or resume an unfinished training.

    Writes metrics.jsonl, checkpoints/, model/, training.json and evaluation.json in the run's folder. Where the
    context knows the reference's losses, the result has its gap and decision; with a teacher, teacher_outputs and
    teacher_flops. Raises InputError where the teacher does not fit the model, and where the folder holds results of
    another prefix.
    """
    runtime, file = context.runtime, run.folder / "evaluation.json"

    def judged() -> TrainingResult:
        check_has_teacher(run.teacher, run.training, run.name)
        cost = train_once(run, context)
        began = time.monotonic()
        logger.info(f"{run.name}: evaluating")
        trained = Reference(path=str(run.folder / "model"), trust_remote_code=context.trust_remote_code)
        evaluation = context.judge(context.load(lambda: load_model(trained)), is_spent=True)
        return TrainingResult.of(
            cost,
            **figures(evaluation, context.judged, context.evaluate.tolerance),
            name=run.name,
            validation_sequences=context.validation_sequences.count,
            model="model",
            wall_seconds=round(cost.wall_seconds + time.monotonic() - began, 3),
        )

    result = once(runtime, file, TrainingResult, judged)
    check_framing(result.given(), context.packing, file)
    return result


def train_once(run: TrainingRun, context: RunContext) -> TrainingCost:
    """Train the model unless it is there already; returns what the training cost. Raises as `run_training` does."""
    runtime, file = context.runtime, run.folder / "training.json"

    def make() -> TrainingCost:
        runtime.on_rank0(lambda: _check_begun(run, context))
        return _train(run, context)

    cost = once(runtime, file, TrainingCost, make, run.folder / "model")
    check_framing(cost.given(), context.packing, file)
    return cost


def _train(run: TrainingRun, context: RunContext) -> TrainingCost:
    runtime, settings = context.runtime, run.training
    began = time.monotonic()
    model = context.load(lambda: in_dtype(run.build(), "float32"))
    train_padding_rows(model)  # a model that a caller hands over was not built here
    runtime.on_rank0(lambda: _check_fits(model, run, context))
    steps = planned_steps(settings, context.train_sequences)
    step_flops = settings.batch_tokens * training_flops_per_token(model, settings.sequence_length)
    size, layers = parameter_count(model), model.config.num_hidden_layers
    logger.info(
        f"{run.name}: {layers} blocks, {size:,} parameters, {steps:,} steps of {settings.batch_tokens:,} tokens"
    )
    rounded = settings.rounded_down(context.train_sequences.count)
    if rounded is not None:
        logger.info(f"{run.name}: {rounded}")
    router = router_loss_of(model, settings.router_loss, run.name)
    teacher = run.teacher
    taught_by = None if teacher is None else teacher.config
    losses = build_losses(settings, LossSetup(router, model.config, taught_by, run.blocks))
    outputs, teaching = None, dict[str, Any]()
    if teacher is not None:
        uses, needs = steps * settings.batch_sequences, TeacherNeeds.of(losses)
        request = DistillationRequest(run.name, settings, context.train_sequences, uses, logits_width(model), needs)
        outputs, teaching = teacher.outputs(request, runtime)
    job = replace(_job(run, context, model, steps * step_flops), teacher=outputs, losses=tuple(losses))
    runtime.on_rank0(lambda: keep_frame(model, context.tokenizer, run.folder / "checkpoints"))
    building = time.monotonic() - began
    with _open_trackers(run, context, model) as trackers:
        progress, how = train_steps(replace(job, trackers=trackers))
    began = time.monotonic()
    _save(model, how in SHARDED, context, run.folder / "model")
    done, tokens = progress.step, progress.step * settings.batch_tokens
    if done < steps:
        logger.info(f"{run.name}: ended after {done:,} of {steps:,} steps, as its curve shows that it cannot match")
        shared = {"teacher_flops"} if teaching.get("teacher_outputs") == "stored" else set()  # made once for all
        by_step = {key for key in teaching if key.endswith("_flops")} - shared
        teaching |= {key: teaching[key] * done // steps for key in by_step}
        teaching["planned_steps"] = steps
    return TrainingCost(
        layers=layers,
        parameters=size,
        tokens=tokens,
        epochs=round(done * settings.batch_sequences / context.train_sequences.count, 4),
        steps=done,
        left_over_tokens=settings.left_over(context.train_sequences.count),
        **context.framing,
        flops=done * step_flops,
        **teaching,
        tokens_per_second=round(tokens / progress.seconds, 1),
        seconds=round(progress.seconds, 3),
        wall_seconds=round(building + progress.wall_seconds + time.monotonic() - began, 3),
    )


def _check_begun(run: TrainingRun, context: RunContext) -> None:
    """Record the prefix that a training starts with; raise InputError where checkpoints were made with another one."""
    note = run.folder / "framing.json"
    has_begun = (run.folder / "checkpoints").exists()
    before = read_mapping(note) if note.exists() else {} if has_begun else context.framing
    check_framing(before, context.packing, note)
    if context.framing and not note.exists():
        write_json(note, context.framing)


def _check_fits(model: "PreTrainedModel", run: TrainingRun, context: RunContext) -> None:
    """Raise InputError where the model cannot see the text as it is packed."""
    packing = context.packing
    check_prefix_fits(packing, model.config.vocab_size, run.name)
    if packing.prefix and not packing.documents and has_position_table(model):
        check_room(model, context.train_sequences.longest)
    if packing.documents and packing.end_of_text is not None:
        place = f"train.attention: document ({run.name})"
        check_documents_apart(model, packing.end_of_text, run.training.sequence_length, place)


def _open_trackers(
    run: TrainingRun, context: RunContext, model: "PreTrainedModel"
) -> AbstractContextManager[Trackers | None]:
    """The trackers of a training, on rank 0 only."""
    if not context.runtime.is_rank0:
        return nullcontext()
    config = {
        "arm": run.name,
        "layers": model.config.num_hidden_layers,
        "parameters": parameter_count(model),
        "seed": context.seed,
        "train": run.training.model_dump(mode="json"),
    }
    return Trackers(context.track, run.folder, f"{context.title}/{run.name}", config)


def _job(run: TrainingRun, context: RunContext, model: "PreTrainedModel", flops: float) -> Job:
    runtime, settings = context.runtime, run.training
    if settings.compile == "auto":
        worth = runtime.device == "cuda" or (runtime.device == "cpu" and flops >= _WORTH_COMPILING)
        lacking = lacking_compiler(runtime.device) if worth else None
        if lacking is not None:
            logger.info(f"{run.name}: not compiled, as {lacking} is missing; steps would be faster")
        settings = settings.model_copy(update={"compile": worth and lacking is None})

    def validate(score: "Score") -> float:
        return mean_loss(
            score, context.validation_sequences, runtime, settings.micro_batch_sequences, context.evaluate.sequences
        )

    return Job(
        label=run.name,
        model=model,
        sequences=context.train_sequences,
        settings=settings,
        seed=context.seed,
        folder=run.folder,
        runtime=runtime,
        validate=validate,
        validate_every=context.evaluate.every.count,
        parallel=context.parallel,
        gives_up=run.gives_up,
        fading=run.fading,
        **parts_of(model, runtime.on_rank0),
    )


def _save(model: "PreTrainedModel", is_sharded: bool, context: RunContext, folder: Path) -> None:
    """Write the trained model as a Hugging Face checkpoint, by rank 0."""
    state = whole_state(model) if is_sharded else {}

    def write() -> None:
        whole = model
        if is_sharded:
            whole = build_hollow(type(model), model.config, model.dtype)
            whole.load_state_dict(state, assign=True)
            whole.tie_weights()  # each name has a tensor of its own now
        save_model(whole, context.tokenizer, folder)

    context.runtime.on_rank0(write)
