"""`train` and `grow`: one training, or rounds of them, on prepared data. For Python programs and `inheritune train`."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import check_positions, layer_count, load_config, load_model, load_tokenizer
from inheritune.card import without_stopping, write_trained_card
from inheritune.data import Prepared, check_prefix, check_tokenizer, check_vocabulary, find_data, open_data
from inheritune.distillation import Teacher, check_has_teacher, open_teacher
from inheritune.errors import InputError
from inheritune.experiment.choice import decide
from inheritune.experiment.context import RunContext
from inheritune.experiment.folders import asked, begun, check_request, identity
from inheritune.experiment.rounds import best_round, continues, round_stages
from inheritune.experiment.stages import Stages
from inheritune.experiment.training_run import TrainingRun, run_training
from inheritune.inheritance import replace_budget
from inheritune.inheritance.making import NOTES
from inheritune.recipe import Distillation, Evaluate, Grow, Inherit, Reference, Training, check, model_at
from inheritune.results import Inherited, RoundResult, Start, TrainingResult
from inheritune.runlog import check_trackers

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def train(
    model: "PreTrainedModel | str | Path", data: "Prepared | str | Path", out: str | Path, *,
    settings: Training | dict[str, Any], evaluate: Evaluate | None = None, seed: int = 1, device: str = "auto",
    parallel: str = "auto", tokenizer: "PreTrainedTokenizerBase | None" = None, track: str | Sequence[str] = (),
    timeout: float = 10, teacher: "PreTrainedModel | str | Path | None" = None, prefix: str = "auto",
) -> "tuple[PreTrainedModel, TrainingResult]":  # fmt: skip
    """Train one model on prepared data, or resume an unfinished training; returns the trained model and its result.

    `model` is a hub id, a folder, a .gguf file or a loaded model, which does not change; so is `teacher`, from which it
    learns as `settings.distillation` says (default: as in the paper). `settings` are those of a recipe's `train`,
    `track` names trackers as a recipe's `track` does, `prefix` is as in its `data`, `timeout` is how many minutes a
    process waits for another one. Writes metrics.jsonl, checkpoints/, model/ (a Hugging Face checkpoint) and
    evaluation.json in the folder `out`. Raises InputError when model, tokenizer and data do not fit each other, a
    tracker is not installed, or `out` holds anything else.
    """
    out = Path(out)
    training = check(Training, settings, "train")
    if teacher is not None and training.distillation is None:
        training = training.model_copy(update={"distillation": Distillation()})
    check_has_teacher(teacher, training, "train")
    source, context, request = _open(
        model, data, out, training, {} if teacher is None else {"teacher": identity(teacher)}, kind="model",
        evaluate=evaluate or Evaluate(), seed=seed, device=device, parallel=parallel, timeout=timeout, prefix=prefix,
        tokenizer=tokenizer, track=track,
    )  # fmt: skip
    teaching = None if teacher is None else open_teacher(teacher, out / "teacher", context.prepared)
    runtime = context.runtime
    with begun(out, request, runtime):
        blocks = None if teaching is None else inherited_blocks(model, teaching.config)

        def build() -> "PreTrainedModel":
            return load_model(source) if isinstance(source, Reference) else copy.deepcopy(source)

        result = run_training(TrainingRun("training", out, build, training, teaching, blocks), context)

        def describe() -> None:
            with without_stopping("start the training again to write it"):
                start = Start.model_validate(runtime.describe())
                write_trained_card(out, model, result, training, start, teacher)

        runtime.on_rank0(describe)
    return load_trained(out), result


def grow(
    reference: "PreTrainedModel | str | Path", data: "Prepared | str | Path", out: str | Path, *,
    train: Training | dict[str, Any], inherit: Inherit | dict[str, Any] | None = None,
    rounds: Grow | dict[str, Any] | None = None, evaluate: Evaluate | None = None, seed: int = 1, device: str = "auto",
    parallel: str = "auto", tokenizer: "PreTrainedTokenizerBase | None" = None, track: str | Sequence[str] = (),
    prefix: str = "auto",
) -> "tuple[PreTrainedModel, list[RoundResult]]":  # fmt: skip
    """Rounds of inherit, train and judge on prepared data in the folder `out`; resumes unfinished rounds.

    `train`, `inherit` and `rounds` are the recipe's `train`, `inherit` and `grow`; with `train.distillation` the
    reference teaches the rounds. `track` and `prefix` are as in a recipe. Returns the model of the shallowest round
    that reached the reference, as `rounds.until` says (of the best round, where none did), and the results of all
    rounds. Raises InputError when reference, data and settings do not fit each other, a tracker is not installed, or
    `out` holds anything else or is in use by another process.
    """
    out, evaluate = Path(out), evaluate or Evaluate()
    training, first = check(Training, train, "train"), check(Inherit, inherit or {}, "inherit")
    further = check(Grow, rounds or {}, "rounds")
    request = {
        "inherit": first.model_dump(mode="json"),
        "rounds": further.model_dump(mode="json"),
        "tolerance": evaluate.tolerance,  # it decides whether a round has matched
    }
    source, context, request = _open(
        reference, data, out, training, request, kind="reference", evaluate=evaluate, seed=seed, device=device,
        parallel=parallel, timeout=10, prefix=prefix, tokenizer=tokenizer, track=track,
    )  # fmt: skip
    model = load_model(source) if isinstance(source, Reference) else source
    total = layer_count(model.config)
    possible = round_stages(replace_budget(model.config, first), further, total)
    teacher = None if training.distillation is None else Teacher(model, out / "teacher", trainings=len(possible))
    with begun(out, request, context.runtime):
        first, dropped = decide(model, first, context, out / "selection.json")
        stages = round_stages(first, further, total, dropped)
        own = Stages(model, out, replace(context, judged=context.judge(model)), teacher=teacher)
        results = own.train(stages, [training] * len(stages), lambda results: continues(results, further, len(stages)))
    return load_trained(out / best_round(results, further).folder), results


def _open(
    model: "PreTrainedModel | str | Path", data: "Prepared | str | Path", out: Path, training: Training,
    request: dict[str, Any], *, kind: str, evaluate: Evaluate, seed: int, device: str, parallel: str, timeout: float,
    prefix: str, tokenizer: "PreTrainedTokenizerBase | None", track: str | Sequence[str],
) -> "tuple[PreTrainedModel | Reference, RunContext, dict[str, Any]]":  # fmt: skip
    """Open tokenizer and data for a model; `kind` names the model in errors.

    Returns the model, or where it is, the context of its trainings in `out`, and what tells the request from another
    one. Raises InputError where they do not fit each other, and where `out` belongs to another request.
    """
    names = (track,) if isinstance(track, str) else tuple(track)
    check_trackers(names)
    check_prefix(prefix, "prefix")
    request = {kind: identity(model), "seed": seed} | asked(training) | request
    runtime = rt.start(device, timeout_minutes=timeout)
    find_data(data)
    runtime.on_rank0(lambda: check_request(out, request))  # in `begun` again; before what takes long
    source = model_at(model) if isinstance(model, str | Path) else model
    if isinstance(source, Reference):
        tokenizer = tokenizer or load_tokenizer(source)
    config = load_config(source) if isinstance(source, Reference) else source.config
    prepared = open_data(data, runtime, config.vocab_size, tokenizer)
    tokenizer = tokenizer or load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))
    check_tokenizer(prepared, tokenizer, "tokenizer")
    check_vocabulary(prepared, config.vocab_size, kind)
    check_positions(config, training.sequence_length, "train.sequence_length")
    context = RunContext.of(
        training, evaluate, seed, runtime, tokenizer, prepared, prefix=prefix, parallel=parallel,
        track=names, title=out.resolve().name,
    )  # fmt: skip
    return source, context, request | {"data": prepared.checksums, "prefix": list(context.packing.prefix)}


def inherited_blocks(model: "PreTrainedModel | str | Path", teacher: "PretrainedConfig") -> list[int] | None:
    """The blocks of a teacher that a model in a folder was made of; None where `inherit` has not made it of as many."""
    notes = None if not isinstance(model, str | Path) else Inherited.read_if_there(Path(model) / NOTES)
    return notes.blocks if notes is not None and notes.total == layer_count(teacher) else None


def load_trained(folder: Path) -> "PreTrainedModel":
    """The model of a finished training. Raises InputError when it was taken away."""
    if not (folder / "model").is_dir():
        raise InputError(
            str(folder / "model"), "is gone, though its training is finished",
            f"put it back, or remove {folder / 'evaluation.json'}: it is then made again from the last checkpoint",
        )  # fmt: skip
    return load_model(Reference(path=str(folder / "model")))
