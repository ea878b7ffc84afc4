"""An arm: one start, one budget; built, trained, judged and kept in a folder from which it goes on after a stop."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import (
    block_matrices,
    block_modules,
    build_empty,
    check_positions,
    check_room,
    has_position_table,
    in_dtype,
    load_model,
    load_tokenizer,
    logits_width,
    parameter_count,
    router_loss_of,
    save_model,
    split_head,
    train_padding_rows,
    training_flops_per_token,
)
from inheritune.card import without_stopping, write_trained_card
from inheritune.conversion import keep_frame
from inheritune.data import (
    Packing,
    Prepared,
    Sequences,
    check_prefix,
    check_prefix_fits,
    check_tokenizer,
    check_vocabulary,
    find_data,
    open_data,
    packing_of,
)
from inheritune.distillation import Lesson, Teacher, check_has_teacher, open_teacher
from inheritune.errors import InputError
from inheritune.evaluation import Evaluation, figures, judge, mean, sequence_losses
from inheritune.recipe import Distillation, Evaluate, Reference, Training, check, model_at
from inheritune.request import asked, begun, check_request, identity
from inheritune.runlog import Terminal, Trackers, check_trackers, open_trackers, read_json, read_mapping, write_json
from inheritune.runtime import Runtime
from inheritune.training import Job, check_documents_apart, lacking_compiler, planned_steps, train_steps, whole_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from inheritune.training.job import Score


_WORTH_COMPILING = 1e15  # FLOPs of a training on a CPU, about two hours on two cores


@dataclass(frozen=True)
class Conditions:
    """What all arms of a run have in common, so that they can be compared.

    `track` names the trackers that their trainings are
    shown in, under the run's name `title`. `trust_remote_code`: their models are loaded with the code that came with
    the reference.
    """

    training: Training
    evaluate: Evaluate
    seed: int
    runtime: Runtime
    terminal: Terminal
    tokenizer: "PreTrainedTokenizerBase"
    train_sequences: Sequences
    validation_sequences: Sequences
    parallel: str = "auto"
    track: tuple[str, ...] = ()
    title: str = "inheritune"
    trust_remote_code: bool = False

    @classmethod
    def of(
        cls, training: Training, evaluate: Evaluate, seed: int, runtime: Runtime, terminal: Terminal,
        tokenizer: "PreTrainedTokenizerBase", prepared: Prepared, parallel: str = "auto", prefix: str = "auto",
    ) -> "Conditions":  # fmt: skip
        """Conditions over prepared data. Raises InputError when it is too small for one sequence or one step."""
        packing = packing_of(prepared, tokenizer, attention=training.attention, prefix=prefix)
        length, place = training.sequence_length, "data: training text"
        train = Sequences(prepared.tokens("train"), length, place, training.sampling, packing)
        validation = Sequences(prepared.tokens("validation"), length, "data.validation", packing=packing)
        planned_steps(training, train)
        if packing.documents and not prepared.manifest["documents"]["train"]:
            what = f"document, and the data has no end-of-text token ({packing.end_of_text})"
            raise InputError("train.attention", what, "give sequence")
        return cls(training, evaluate, seed, runtime, terminal, tokenizer, train, validation, parallel)

    @property
    def framing(self) -> dict[str, Any]:
        """What is written down of the prefix with results, so that none is continued with another one."""
        return {"prefix": list(self.packing.prefix)} if self.packing.prefix else {}

    @property
    def packing(self) -> Packing:
        """How the text becomes the input of all models."""
        return self.train_sequences.packing

    def left_over(self) -> dict[str, int]:
        """Tokens of training and validation that fill no sequence, which no model of the run sees."""
        return {"train": self.train_sequences.left_over, "validation": self.validation_sequences.left_over}

    def judge(self, model: "PreTrainedModel") -> Evaluation:
        """The model's losses on all validation sequences."""
        settings = self.training
        return judge(
            model, self.validation_sequences, self.runtime, precision=settings.precision,
            micro_batch=settings.micro_batch_sequences, parallel=self.parallel,
        )  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """`build` gives the model at its start, on the CPU; `training` is the arm's own budget where it differs.

    `teacher` is given where the training has a `distillation`, and only there.
    """

    name: str
    folder: Path
    build: Callable[[], "PreTrainedModel"] = field(repr=False)
    training: Training | None = None
    teacher: Teacher | None = None


_TRAINED = ("layers", "parameters", "tokens", "steps", "flops", "wall_seconds")
"""Keys of training.json that are needed."""
_JUDGED = (*_TRAINED, "name", "val_loss", "val_loss_se", "validation_sequences", "model", "sequence_losses")
"""Keys of evaluation.json that are needed."""


def run_arm(arm: Arm, conditions: Conditions, reference: Evaluation | None) -> dict[str, Any]:
    """Build, train and judge an arm, going on where an earlier call stopped; returns its figures.

    Leaves in the arm's folder: metrics.jsonl, checkpoints/, model/, training.json and evaluation.json. With
    `reference`, the figures hold gap, gap_se and matched; with a teacher, teacher_outputs and teacher_flops.
    Raises InputError where the teacher does not fit the arm.
    """
    runtime = conditions.runtime
    done = arm.folder / "evaluation.json"
    found: dict[str, Any] | None = runtime.first_does(lambda: read_json(done, *_JUDGED) if done.exists() else None)
    if found is not None:
        check_framing(found, conditions.packing, done)
        return found
    settings = arm.training or conditions.training
    check_has_teacher(arm.teacher, settings, arm.name)
    facts = _train(arm, conditions, settings)
    began = time.monotonic()
    conditions.terminal.say(f"{arm.name}: evaluating")
    trained = Reference(path=str(arm.folder / "model"), trust_remote_code=conditions.trust_remote_code)
    evaluation = conditions.judge(load_model(trained))
    found = {
        "name": arm.name,
        **facts,
        **figures(evaluation, reference, conditions.evaluate.tolerance),
        "validation_sequences": len(evaluation.losses),
        "model": "model",
        "wall_seconds": round(facts["wall_seconds"] + time.monotonic() - began, 3),
        "sequence_losses": list(evaluation.losses),
    }
    runtime.first_does(lambda: write_json(done, found))
    return found


def _train(arm: Arm, conditions: Conditions, settings: Training) -> dict[str, Any]:
    """Train the arm unless its model is there already; returns what the training cost."""
    runtime, cost = conditions.runtime, arm.folder / "training.json"
    facts: dict[str, Any] | None = runtime.first_does(
        lambda: read_json(cost, *_TRAINED) if cost.exists() and (arm.folder / "model").is_dir() else None
    )
    if facts is not None:
        check_framing(facts, conditions.packing, cost)
        return facts
    runtime.first_does(lambda: _check_begun(arm, conditions))
    began = time.monotonic()
    model = in_dtype(arm.build(), "float32")
    train_padding_rows(model)  # a model that a caller hands over was not built here
    packing = conditions.packing
    check_prefix_fits(packing, model.config.vocab_size, arm.name)
    if packing.prefix and not packing.documents and has_position_table(model):
        check_room(model, conditions.train_sequences.longest)
    if packing.documents and packing.end_of_text is not None:
        place = f"train.attention: document ({arm.name})"
        check_documents_apart(model, packing.end_of_text, settings.sequence_length, place)
    steps = planned_steps(settings, conditions.train_sequences)
    tokens = steps * settings.batch_tokens
    flops = tokens * training_flops_per_token(model, settings.sequence_length)
    size = parameter_count(model)
    conditions.terminal.say(
        f"{arm.name}: {model.config.num_hidden_layers} blocks, {size:,} parameters,"
        f" {steps:,} steps of {settings.batch_tokens:,} tokens"
    )
    outputs, teaching = None, dict[str, Any]()
    if arm.teacher is not None:
        uses = steps * settings.batch_sequences
        lesson = Lesson(arm.name, settings, conditions.train_sequences, uses, logits_width(model))
        outputs, teaching = arm.teacher.outputs(lesson, runtime, conditions.terminal.say)
    job = replace(_job(arm, conditions, settings, model, flops), teacher=outputs)
    runtime.first_does(lambda: keep_frame(model, conditions.tokenizer, arm.folder / "checkpoints"))
    building = time.monotonic() - began
    with _open_trackers(arm, conditions, model, settings) as trackers:
        position, how = train_steps(replace(job, trackers=trackers))
    began = time.monotonic()
    _save(model, how == "fsdp", conditions, arm.folder / "model")
    facts = {
        "layers": model.config.num_hidden_layers,
        "parameters": size,
        "tokens": tokens,
        "epochs": round(steps * settings.batch_sequences / conditions.train_sequences.count, 4),
        "steps": steps,
        "left_over_tokens": settings.left_over(conditions.train_sequences.count),
        **conditions.framing,
        "flops": flops,
        **teaching,
        "tokens_per_second": round(tokens / position.seconds, 1),
        "seconds": round(position.seconds, 3),
        "wall_seconds": round(building + position.wall_seconds + time.monotonic() - began, 3),
    }
    runtime.first_does(lambda: write_json(cost, facts))
    return facts


def check_framing(found: dict[str, Any], packing: Packing, file: Path) -> None:
    """Raise InputError where a result was made with another prefix before its sequences, as by earlier versions."""
    before, now = found.get("prefix", []), list(packing.prefix)
    if before != now:
        words = [f"with the tokens {one} before each sequence" if one else "without a prefix" for one in (before, now)]
        raise InputError(
            str(file), f"was computed {words[0]}, and this call computes {words[1]}",
            "give another folder, or set data.prefix to none for no prefix and to auto for the tokenizer's",
        )  # fmt: skip


def _check_begun(arm: Arm, conditions: Conditions) -> None:
    """Note with which prefix a training begins; raise InputError where checkpoints were made with another one."""
    note = arm.folder / "framing.json"
    has_begun = (arm.folder / "checkpoints").exists()
    before = read_mapping(note) if note.exists() else {} if has_begun else conditions.framing
    check_framing(before, conditions.packing, note)
    if conditions.framing and not note.exists():
        write_json(note, conditions.framing)


def _open_trackers(
    arm: Arm, conditions: Conditions, model: "PreTrainedModel", settings: Training
) -> AbstractContextManager[Trackers | None]:
    """The trackers of a training; none but in the first process."""
    if not conditions.runtime.is_first:
        return nullcontext()
    config = {
        "arm": arm.name,
        "layers": model.config.num_hidden_layers,
        "parameters": parameter_count(model),
        "seed": conditions.seed,
        "train": settings.model_dump(mode="json"),
    }
    return open_trackers(conditions.track, arm.folder, f"{conditions.title}/{arm.name}", config, conditions.terminal)


def _job(arm: Arm, conditions: Conditions, settings: Training, model: "PreTrainedModel", flops: float) -> Job:
    runtime = conditions.runtime
    if settings.compile == "auto":
        worth = runtime.device == "cuda" or (runtime.device == "cpu" and flops >= _WORTH_COMPILING)
        lacking = lacking_compiler(runtime.device) if worth else None
        if lacking is not None:
            conditions.terminal.say(f"{arm.name}: not compiled, as {lacking} is missing; steps would be faster")
        settings = settings.model_copy(update={"compile": worth and lacking is None})

    def validate(score: "Score") -> float:
        losses = sequence_losses(
            score, conditions.validation_sequences, runtime, settings.micro_batch_sequences,
            conditions.evaluate.sequences,
        )  # fmt: skip
        return mean(losses).value

    return Job(
        router=router_loss_of(model, settings.router_loss, arm.name, conditions.terminal.say),
        label=arm.name,
        model=model,
        sequences=conditions.train_sequences,
        settings=settings,
        seed=conditions.seed,
        folder=arm.folder,
        runtime=runtime,
        terminal=conditions.terminal,
        validate=validate,
        validate_every=conditions.evaluate.every.count,
        parallel=conditions.parallel,
        **parts_of(model),
    )


def parts_of(model: "PreTrainedModel") -> dict[str, Any]:
    """What `Job` wants to know of a model's parts: blocks, matrices, head, vocabulary."""
    return {
        "blocks": block_modules(model),
        "matrices": block_matrices(model),
        "head": split_head(model),
        "vocabulary": model.get_input_embeddings().weight.shape[0],
    }


def _save(model: "PreTrainedModel", is_sharded: bool, conditions: Conditions, folder: Path) -> None:
    """Write the trained model as a checkpoint, by the first process."""
    state = whole_state(model) if is_sharded else {}

    def write() -> None:
        whole = model
        if is_sharded:
            whole = build_empty(model.config, model.dtype, conditions.trust_remote_code)
            whole.load_state_dict(state)
        save_model(whole, conditions.tokenizer, folder)

    conditions.runtime.first_does(write)


def train(
    model: "PreTrainedModel | str | Path", data: "Prepared | str | Path", out: str | Path, *,
    settings: Training | dict[str, Any], evaluate: Evaluate | None = None, seed: int = 1, device: str = "auto",
    parallel: str = "auto", tokenizer: "PreTrainedTokenizerBase | None" = None, terminal: Terminal | None = None,
    track: str | Sequence[str] = (), timeout: float = 10, teacher: "PreTrainedModel | str | Path | None" = None,
    prefix: str = "auto",
) -> "tuple[PreTrainedModel, dict[str, Any]]":  # fmt: skip
    """Train one model on prepared data; returns the trained model and its figures.

    `model` is a hub id, a folder, a .gguf file or a loaded model, which stays as it is; so is `teacher`, from which it
    learns as `settings.distillation` says (default: as in the paper). `settings` are those of a
    recipe's `train`, `track` names trackers as a recipe's `track` does, `prefix` is as in its `data`, `timeout` is how
    many minutes a process waits for another one. The folder `out` gets metrics.jsonl,
    checkpoints/, model/ (a Hugging Face checkpoint) and evaluation.json; called again, an interrupted training goes on.
    Raises InputError when model, tokenizer and data do not fit, a tracker is not installed, or `out` holds something
    else.
    """
    out = Path(out)
    terminal = terminal or Terminal(quiet=True)
    training = settings if isinstance(settings, Training) else check(Training, settings, "train")
    if teacher is not None and training.distillation is None:
        training = training.model_copy(update={"distillation": Distillation()})
    check_has_teacher(teacher, training, "train")
    evaluate = evaluate or Evaluate()
    names = (track,) if isinstance(track, str) else tuple(track)
    check_trackers(names)
    check_prefix(prefix, "prefix")
    runtime = rt.start(device, timeout_minutes=timeout)
    find_data(data)
    request = {"model": identity(model), "seed": seed} | asked(training)
    if teacher is not None:
        request["teacher"] = identity(teacher)
    runtime.first_does(lambda: check_request(out, request))  # in `begun` again; before what takes long
    given = model
    if isinstance(model, str | Path):
        origin = model_at(model)
        tokenizer = tokenizer or load_tokenizer(origin)
        model = load_model(origin)
    prepared = open_data(data, runtime, model.config.vocab_size, tokenizer)
    request["data"] = prepared.checksums
    tokenizer = tokenizer or load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))
    check_tokenizer(prepared, tokenizer, str(out))
    check_vocabulary(prepared, model.config.vocab_size, "model")
    check_positions(model.config, training.sequence_length, "train.sequence_length")
    conditions = Conditions.of(training, evaluate, seed, runtime, terminal, tokenizer, prepared, parallel, prefix)
    request["prefix"] = list(conditions.packing.prefix)
    conditions = replace(conditions, track=names, title=out.resolve().name)
    start = copy.deepcopy(model) if given is model else model
    taught = None if teacher is None else open_teacher(teacher, out / "teacher", prepared)
    with begun(out, request, runtime):
        found = run_arm(Arm("training", out, lambda: start, teacher=taught), conditions, None)

        def describe() -> None:
            with without_stopping(terminal.warn, "start the training again to write it"):
                write_trained_card(out, given, found, training, runtime.describe(), teacher)

        runtime.first_does(describe)
    return load_trained(out), found


def load_trained(folder: Path) -> "PreTrainedModel":
    """The model of a finished arm. Raises InputError when it was taken away."""
    if not (folder / "model").is_dir():
        raise InputError(
            str(folder / "model"),
            "is gone, though its training is finished",
            f"put it back, or remove {folder / 'evaluation.json'}: it is then made again of the last checkpoint",
        )
    return load_model(Reference(path=str(folder / "model")))
