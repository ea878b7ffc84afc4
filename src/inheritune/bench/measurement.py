"""How fast a training runs here, compared with the machine's limit, measured through the training engine.

A random model is trained on random tokens by `training.train_steps`, as a user's model would be. The engine calls for a
validation loss between steps; there this room takes its own measurements: the machine's matrix product, a real
validation, and the time of day. So the limit and the step are measured in turn in one process.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inheritune import runtime as rt
from inheritune.arch import layer_count, parameter_count, parts_of, training_flops_per_token
from inheritune.bench.machine import (
    MATRIX,
    device_name,
    known_peak,
    matrix_rates,
    peak_memory,
    reset_peak_memory,
    synchronise,
)
from inheritune.bench.shapes import build, resolve
from inheritune.data import Packing, Sequences, Shard, Tokens
from inheritune.distillation import OnlineOutputs, check_has_teacher
from inheritune.errors import InputError
from inheritune.evaluation import mean_loss
from inheritune.losses import CrossEntropy, Loss, LossSetup, TeacherNeeds, build_losses
from inheritune.recipe import Evaluate, Training, check
from inheritune.runlog import checksum, logger, read_json, read_metrics, versions
from inheritune.runtime import Runtime
from inheritune.training import Job, list_checkpoints, train_steps

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from inheritune.training.job import Score

_ROUNDS = 6  # of steps between two calls: compiling, three plain ones, one after a best loss, one with a checkpoint
_VALIDATED = (1, 2, 3)  # calls that validate; the first of them compiles or warms up and does not count
_DOCUMENT, _END = 500, 0  # tokens of a document, with attention inside documents, and what ends it
_DISK_RATE = 0.3e9  # bytes per second that a checkpoint is expected to be written with, when time is short


class _Enough(Exception):
    """Ends a training from within, without a last checkpoint, as all is measured."""


@dataclass
class _Meter:
    """What the engine calls in place of a validation; `limits` in FLOP/s, all else in seconds."""

    work: "_Work"
    dtype: torch.dtype
    checkpoints: Path
    ends: float | None
    checkpoint_seconds: float
    entered: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)

    def __call__(self, score: "Score") -> float:
        call, runtime = len(self.entered), self.work.runtime
        synchronise(runtime.device)
        self.entered.append(time.perf_counter())
        if call == 1:
            reset_peak_memory(runtime)  # the memory of compiling and of finding the micro-batch does not count
        self.limits += matrix_rates(runtime, self.dtype)
        if call in _VALIDATED:
            began = time.perf_counter()
            self.work.validate(score)
            synchronise(runtime.device)
            self.validations.append(time.perf_counter() - began)
        if call == _ROUNDS or self._late(call):
            raise _Enough
        while any(self.checkpoints.glob(".*.partial")):  # what is written beside the training belongs to one round
            time.sleep(0.01)
        self.left.append(time.perf_counter())
        return 1.0 if call == _ROUNDS - 2 else 2.0 + call  # a loss that is the best makes the engine keep the weights

    def _late(self, call: int) -> bool:
        needed = self.checkpoint_seconds if call >= _ROUNDS - 2 else 0.0
        return self.ends is not None and call > max(_VALIDATED) and time.perf_counter() + needed > self.ends

    def spans(self) -> list[float]:
        """Seconds between two calls: steps with data and records, and what the engine saved meanwhile."""
        return [after - before for before, after in zip(self.left, self.entered[1:], strict=False)]


def bench(
    shape: "str | PretrainedConfig", training: Training | dict[str, Any] | None = None, *,
    evaluate: Evaluate | None = None, steps: int = 20, end_to_end: int = 0, minutes: float | None = None,
    device: str = "auto", threads: int | None = None, folder: str | Path = ".", parallel: str = "auto",
) -> dict[str, Any]:  # fmt: skip
    """Train a random model of a shape for `steps` steps after warm-up, and compare that with the machine's limit.

    `shape` is a name in SHAPES or a config; `training` holds `train` keys, which for a named shape are laid over the
    shape's own. `length` and `schedule` do not matter; `compile: auto` compiles, as a long training does.
    `end_to_end` is a number of steps that are trained after that with the real intervals of validation and checkpoint,
    0 for none. After `minutes` no further round is begun (default: 2.5 on a GPU, else no end). Temporary files go into
    `folder`, up to 16 bytes a parameter. `parallel: fsdp` shards the model over this one process.

    Returns JSON values: rates in tokens and FLOPs a second, times in seconds, memory in bytes; docs/benchmarks.md
    explains how each is measured. Raises InputError for a shape or settings that are not possible.
    """
    began, evaluate = time.perf_counter(), evaluate or Evaluate()
    if steps < _ROUNDS - 1:
        raise InputError("steps", f"{steps} steps are too few to measure", f"give at least {_ROUNDS - 1}")
    runtime = rt.start(device, threads)
    if runtime.world_size > 1:
        raise InputError("bench", f"{runtime.world_size} processes", "it measures one: run it without torchrun")
    name, config, settings = resolve(shape, training, runtime)
    if settings.needs_teacher:
        raise InputError("train.distillation", "there is no teacher to measure with", "remove it")
    if minutes is None and runtime.device == "cuda":
        minutes = 2.5
    logger.info(f"{name}: building a random model, compiling, measuring")
    with tempfile.TemporaryDirectory(prefix=".inheritune-bench-", dir=folder) as place:
        work = _Work(build(config, runtime), settings, evaluate, runtime, Path(place), parallel)
        each = steps // (_ROUNDS - 1)
        meter, records = work.measure(each, None if minutes is None else began + 60 * minutes)
        result = {"shape": name, **work.describe(), **_figures(work, meter, records, each)}
        result["memory"] = peak_memory(runtime)
        if end_to_end:
            logger.info(f"{name}: training {end_to_end} steps")
        result["end_to_end_direct"] = work.whole(end_to_end) if end_to_end else None
    result["bench_seconds"] = time.perf_counter() - began
    return result


def one_step(
    config: "PretrainedConfig", training: Training, runtime: Runtime, folder: str | Path,
    teacher: "PretrainedConfig | None" = None, blocks: Sequence[int] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Two steps through the engine, not compiled, which show whether a training fits and works here.

    With a distillation, `teacher` is the config of one that is made of random weights too, and passes every batch;
    `blocks` are those of it that the model's come from. Returns the first step's loss (nats a token; about log of the
    vocabulary for a random model), the second's seconds, and the peak memory in bytes. Whatever the engine raises comes
    through, an out-of-memory error too.
    """
    check_has_teacher(teacher, training, "dry run")
    settings = training.model_copy(update={"compile": False})
    times: list[float] = []

    def note(score: "Score") -> float:
        synchronise(runtime.device)
        times.append(time.perf_counter())
        if len(times) == 2:
            reset_peak_memory(runtime)
        if len(times) == 3:  # before the first step, after it, after the second
            raise _Enough
        return 1.0

    with tempfile.TemporaryDirectory(prefix=".inheritune-bench-", dir=folder) as place:
        work = _Work(build(config, runtime), settings, Evaluate(), runtime, Path(place))
        work.losses = tuple(build_losses(settings, LossSetup(None, config, teacher, blocks)))
        if teacher is not None:
            precision = runtime.resolve_precision(settings.precision)
            work.teacher = OnlineOutputs(build(teacher, runtime), TeacherNeeds.of(work.losses), runtime, precision)
        records = work.train(note, steps=3, every=1, saved_each=4)
    return {"loss": records[0]["loss"], "seconds": times[2] - times[1], "memory": peak_memory(runtime)}


@dataclass
class _Work:
    """A model and the settings that it is trained with."""

    model: "PreTrainedModel"
    settings: Training
    evaluate: Evaluate
    runtime: Runtime
    folder: Path
    parallel: str = "auto"
    teacher: OnlineOutputs | None = None
    losses: tuple[Loss, ...] = (CrossEntropy(),)

    def __post_init__(self) -> None:
        length, settings = self.settings.sequence_length, self.settings
        generator = np.random.default_rng(1)
        count = max(64 * settings.batch_sequences, self.evaluate.sequences) * length + 1
        kind = np.uint16 if self.model.config.vocab_size <= 2**16 else np.uint32
        file = self.folder / "tokens.bin"
        row = generator.integers(0, self.model.config.vocab_size, count, dtype=kind)
        packing = Packing(end_of_text=_END, documents=settings.attention == "document")
        if packing.documents:
            row[row == _END] = _END + 1
            row[::_DOCUMENT] = _END
        row.tofile(file)
        self.micro_batch = settings.micro_batch
        tokens = Tokens([Shard(file, count, checksum(file))], np.dtype(kind).name)
        self.sequences = Sequences(tokens, length, "bench", settings.sampling, packing)

    def describe(self) -> dict[str, Any]:
        """What is measured, and on what."""
        settings = self.settings
        return {
            "model_type": self.model.config.model_type,
            "blocks": layer_count(self.model.config),
            "parameters": parameter_count(self.model),
            "batch_sequences": settings.batch_sequences,
            "micro_batch": self.micro_batch,
            "sequence_length": settings.sequence_length,
            "precision": self.runtime.resolve_precision(settings.precision),
            "compile": settings.compile,
            "activation_checkpointing": settings.activation_checkpointing,
            "optimizer": settings.optimizer.model_dump(mode="json"),
            "hardware": self.runtime.describe() | {"name": device_name(self.runtime.device)},
            "versions": versions(),
        }

    def validate(self, score: "Score") -> float:
        """The mean loss of as many sequences as a training validates on."""
        micro_batch, most = self.settings.micro_batch_sequences, self.evaluate.sequences
        return mean_loss(score, self.sequences, self.runtime, micro_batch, most)

    def train(
        self, validate: "Callable[[Score], float]", steps: int, every: int, saved_each: int | None = None
    ) -> list[dict[str, Any]]:
        """Train through the engine; returns the records of its steps. `saved_each`: steps between two checkpoints."""
        tree = self.settings.model_dump(mode="json") | {"length": f"{steps} steps", "spike": None}
        tree["schedule"] = {"name": "constant", "warm_up": "1%"}
        if saved_each is not None:
            tree["checkpoint"] |= {"every": f"{saved_each} steps"}
        folder = self.folder / f"{steps}steps"
        job = Job(
            label="bench", model=self.model, sequences=self.sequences, settings=check(Training, tree, "bench"), seed=1,
            folder=folder, runtime=self.runtime, validate=validate, validate_every=every, teacher=self.teacher,
            parallel=self.parallel, losses=self.losses, live=False,  # its line would show what the meter returns
            **parts_of(self.model),
        )  # fmt: skip
        with contextlib.suppress(_Enough):
            train_steps(job)
        return [record for record in read_metrics(folder / "metrics.jsonl") if "tokens_per_second" in record]

    def measure(self, each: int, ends: float | None) -> tuple[_Meter, list[dict[str, Any]]]:
        """`_ROUNDS` rounds of `each` steps, with one best loss and one checkpoint in the last two; their records."""
        single = self.runtime.resolve_precision(self.settings.precision) == "float32"
        states = sum(self.settings.optimizer.state_bytes(p.numel(), p.dim(), False) for p in self.model.parameters())
        writing = (parameter_count(self.model) * (4 + 4) + states) / _DISK_RATE
        steps, dtype = _ROUNDS * each + 1, torch.float32 if single else torch.bfloat16
        checkpoints = self.folder / f"{steps}steps" / "checkpoints"
        meter = _Meter(self, dtype, checkpoints, ends, writing)
        records = self.train(meter, steps, each, saved_each=(_ROUNDS - 1) * each)
        for step in list_checkpoints(checkpoints):
            self.micro_batch = read_json(checkpoints / f"step-{step:09d}" / "checkpoint.json")["position"][
                "micro_batch"
            ]
        return meter, records

    def whole(self, steps: int) -> dict[str, Any]:
        """A training of `steps` steps like a user's, timed from the end of warm-up to its end."""
        first: list[float] = []

        def validate(score: "Score") -> float:
            loss = self.validate(score)
            first.append(time.perf_counter())
            return loss

        records = self.train(validate, steps, self.evaluate.every.count)
        skipped = records[min(2, len(records) - 2)]  # without the first steps, which compile
        wall = time.perf_counter() - first[0] - skipped["seconds"]
        done, inside = steps - skipped["step"], records[-1]["seconds"] - skipped["seconds"]
        return {
            "steps": done,
            "seconds": wall,
            "seconds_in_steps": inside,
            "validations": len(first) - 1,
            "tokens_per_second": done * self.settings.batch_tokens / wall,
            "lost": 1 - inside / wall,
        }


def _figures(work: _Work, meter: _Meter, records: list[dict[str, Any]], each: int) -> dict[str, Any]:
    """The step, the limit, the fraction of it, and the rate end to end."""
    settings, device = work.settings, work.runtime.device
    flops = training_flops_per_token(work.model, settings.sequence_length)
    rates = [record["tokens_per_second"] for record in records if record["step"] > each]
    rate, limit = statistics.median(rates), statistics.median(meter.limits)
    peak = known_peak(device_name(device)) if meter.dtype.itemsize == 2 else None
    return {
        "flops_per_token": flops,
        "step": {
            "measured": len(rates),
            "seconds": settings.batch_tokens / rate,
            "tokens_per_second": rate,
            "lowest": min(rates),
            "highest": max(rates),
            "flops_per_second": rate * flops,
        },
        "first_step_seconds": records[0]["seconds"],
        "limit": {
            "matrix": MATRIX[device],
            "dtype": str(meter.dtype).removeprefix("torch."),
            "measured": len(meter.limits),
            "flops_per_second": limit,
            "lowest": min(meter.limits),
            "highest": max(meter.limits),
            "data_sheet": peak,
        },
        "fraction": rate * flops / limit,
        "fraction_of_data_sheet": None if peak is None else rate * flops / peak,
        "end_to_end": end_to_end_rate(
            settings, work.evaluate, meter.spans(), _inside(records, each), meter.validations[1:], each
        ),
    }


def _inside(records: list[dict[str, Any]], each: int) -> list[float]:
    """The seconds that the plain rounds (all but the first and the last two) spent in steps."""
    after = {record["step"]: record["seconds"] for record in records}
    ends = [after[step] for step in range(each, (_ROUNDS - 2) * each + 1, each) if step in after]
    return [end - begin for begin, end in pairwise(ends)]


def end_to_end_rate(
    settings: Training, evaluate: Evaluate, spans: list[float], inside: list[float], validations: list[float], each: int
) -> dict[str, Any] | None:
    """The rate at the real intervals of validation and checkpoints, and which share of the time is lost beside steps.

    `spans` are the seconds of the rounds of `each` steps: the first compiles, the last but one has a best loss, the
    last a checkpoint; `inside` those that the plain rounds in between spent in steps. A step costs its share of the
    plain rounds' wall time (with data and records), and of a validation, of keeping the best weights and of a
    checkpoint, each as often as the settings say. None when time ran out before they were measured.
    """
    if len(spans) < _ROUNDS or not validations:
        return None
    plain = statistics.median(spans[1:-2])
    between = statistics.median(span - steps for span, steps in zip(spans[1:-2], inside, strict=True)) / each
    best, saved = (max(0.0, span - plain) for span in spans[-2:])
    judged = statistics.median(validations)
    every, saving = evaluate.every.count, settings.checkpoint.every
    step = plain / each + (judged + best * settings.checkpoint.best) / every
    step = step + saved / saving.count if saving.unit == "steps" else step / max(1e-9, 1 - saved / (60 * saving.amount))
    return {
        "tokens_per_second": settings.batch_tokens / step,
        "lost": 1 - (plain / each - between) / step,
        "between_steps_seconds": between,
        "validation_seconds": judged,
        "validation_sequences": evaluate.sequences,
        "best_seconds": best,
        "validation_every_steps": every,
        "checkpoint_seconds": saved,
        "checkpoint_every": str(saving),
    }
