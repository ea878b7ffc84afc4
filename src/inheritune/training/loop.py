"""The training loop: a model, sequences and a loss in; a trained model, metrics and checkpoints out."""

import math
import statistics
import time
from collections import deque
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from inheritune import runtime as rt
from inheritune.data import Batches, Examples, nothing_stored
from inheritune.errors import Diverged, Interrupted, RunError, is_out_of_memory
from inheritune.optimizers.stepping import allocate_state, copy_parameters, state_tensors
from inheritune.runlog import LiveLine, MetricsLog, logger, read_metrics
from inheritune.training.checkpoint import (
    Checkpoints,
    TrainProgress,
    known_at,
    model_tensors,
    read_position,
    read_tensors,
    stored_shapes,
)
from inheritune.training.float8 import check_float8, use_float8
from inheritune.training.job import Job, planned_steps
from inheritune.training.objective import Objective, checkpoint_activations
from inheritune.training.parallel import SHARDED, How, ParallelModel, check_compiler, choose, parallelize
from inheritune.training.schedule import learning_rate, planned_rates
from inheritune.training.step import Launched, Outcome, Stepper, largest_micro_batch

_RECENT = 50  # steps whose median a spike is measured by
_FEWEST = 10
_ROLLBACKS = 5  # to one checkpoint, before it is given up
_SHOWN = 16  # sequences in an error


def train_steps(job: Job) -> tuple[TrainProgress, How]:
    """Train to the end, resuming from the newest good checkpoint in `job.folder`/checkpoints.

    Writes metrics.jsonl there: per step the mean loss of the batch in nats a token, learning rate, gradient norm,
    tokens so far, tokens per second. Returns where it ended, and how the model is held by the processes now.

    Raises Interrupted, after saving, on Ctrl-C or SIGTERM; RunError when loss or gradient is not finite, before the
    optimizer has seen it, and when a checkpoint cannot be written.
    """
    steps = planned_steps(job.settings, job.sequences)
    torch.manual_seed(job.seed + job.runtime.rank)
    checkpoints = Checkpoints(job.folder / "checkpoints", job.settings.checkpoint.keep, job.runtime)
    undo = checkpoint_activations(job.blocks) if job.settings.activation_checkpointing else lambda: None
    log: MetricsLog | None = None
    state: _State | None = None
    try:
        with rt.freed_memory_kept(), rt.stop_on_signal() as stop:
            state = _State(job, checkpoints)
            restored = state.restore()
            position = state.with_micro_batch(restored or TrainProgress())
            if position.step:
                logger.info(f"{job.label}: resuming from step {position.step:,} of {steps:,}")
            if job.runtime.is_rank0:
                log = MetricsLog(job.folder / "metrics.jsonl", known_at(restored))
                _warn_of_gaps(job, position.step)
            shown = LiveLine(job.label, steps, position.step) if job.live else nullcontext()
            with shown as line, state.batches.reading_ahead():
                loop = _Loop(job, state, log, line, stop, steps)
                return loop.run(position, is_new=restored is None), state.parallel.how
    finally:
        checkpoints.close()
        if state is not None:
            state.release()
        undo()
        if log is not None:
            log.close()


def _warn_of_gaps(job: Job, step: int) -> None:
    """Warn where metrics.jsonl lacks steps: curves then have gaps, and a spike is measured by other losses."""
    file = job.folder / "metrics.jsonl"
    missing = set(range(1, step + 1)) - {record["step"] for record in read_metrics(file)}
    if missing:
        logger.warning(f"{file} is damaged: {len(missing):,} of the steps up to {step:,} are missing, resuming anyway")


class _State:
    """Everything that a checkpoint stores, and the objects that have it."""

    def __init__(self, job: Job, checkpoints: Checkpoints) -> None:
        settings, runtime = job.settings, job.runtime
        self.job, self.checkpoints, self.runtime = job, checkpoints, runtime
        how = choose(job.parallel, job.model, runtime)
        objective = Objective(job.model, job.head, job.losses, job.teacher, job.blocks, job.fading)
        self.release = objective.release
        self.own: torch.nn.Module = objective.own
        precision = runtime.resolve_precision(settings.precision)
        if precision == "float8":
            check_float8(runtime.device)
            use_float8(job.blocks)
        if settings.compile is True:
            check_compiler(runtime.device)
        self.parallel: ParallelModel = parallelize(
            objective, job.blocks, how, runtime, precision=precision, compiled=settings.compile is True
        )
        if how in SHARDED or runtime.world_size > 1:
            settings.optimizer.check_shardable()
        self.optimizers = settings.optimizer.build(job.model, job.matrices, list(self.own.parameters()))
        for module in (job.model, self.own):
            allocate_state(module, self.optimizers)
        self.batches = Batches(
            job.sequences, settings.batch_sequences, job.seed, dp_rank=runtime.dp_rank, dp_size=runtime.dp_size,
            pin=runtime.device == "cuda", stored=job.teacher.stored if job.teacher is not None else nothing_stored,
        )  # fmt: skip

    def restore(self) -> TrainProgress | None:
        """Load the newest good checkpoint, if there is one."""
        target = self.checkpoints.newest()
        if target is None:
            return None
        position = read_position(target)
        random, stored = self.random(), stored_shapes(target)
        known = {name: value for name, value in random.items() if name in stored}  # there may be more processes now
        read_tensors(target, self.tensors() | known, self.runtime)
        for module in (self.job.model, self.own):
            copy_parameters(module, self.optimizers)
        if known.keys() == random.keys():
            rt.restore_random_state({name.rpartition("/")[2]: value for name, value in random.items()})
        return position

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and optimizer states; those of the losses' own parameters have names of their own."""
        model, own = self.job.model, self.own
        further = {
            "optimizer": state_tensors(model, self.optimizers),
            "losses": {name: one.detach() for name, one in own.named_parameters()},
            "losses-optimizer": state_tensors(own, self.optimizers),
        }
        prefixed = {f"{prefix}/{name}": one for prefix, each in further.items() for name, one in each.items()}
        return model_tensors(model) | prefixed

    def random(self) -> dict[str, torch.Tensor]:
        """The random state of each process under its own name, as dropout draws differ between processes."""
        state = rt.random_state(self.runtime.device)
        return {f"random/{self.runtime.rank}/{name}": value for name, value in state.items()}

    def with_micro_batch(self, position: TrainProgress) -> TrainProgress:
        """The position with the micro-batch to use: the one in use, unless the recipe now asks for another."""
        wanted = self.job.settings.micro_batch
        asked = 0 if wanted == "auto" else wanted
        known = position.micro_batch and position.asked_micro_batch == asked
        size = min(position.micro_batch if known else self._micro_batch(), self.batches.share)
        return replace(position, micro_batch=self.checkpoints.fitting(size, asked), asked_micro_batch=asked)

    def _micro_batch(self) -> int:
        """The recipe's, or the one that fits."""
        settings, runtime = self.job.settings, self.runtime
        if settings.micro_batch != "auto":
            return min(settings.micro_batch, self.batches.share)
        if runtime.device != "cuda":
            return min(self.batches.share, 8)
        size = largest_micro_batch(self.parallel, settings, runtime, self.batches, self.job.vocabulary)
        logger.info(f"{self.job.label}: micro-batches of {size} sequences fit")
        return size


class _Spike(Exception):
    def __init__(self, step: int, loss: float) -> None:
        self.step, self.loss = step, loss


class _Loop:
    """Runs a training. On a GPU a step is queued before the results of the one before it are read."""

    def __init__(
        self, job: Job, state: _State, log: MetricsLog | None, line: LiveLine | None, stop: rt.StopRequest, steps: int
    ) -> None:
        self.job, self.state, self.log, self.line, self.stop, self.steps = job, state, log, line, stop, steps
        self.settings = job.settings
        self.warm_up, self.decay = self.settings.warm_up_steps(steps), self.settings.decay_steps(steps)
        self.ahead = job.queued if job.queued is not None else int(job.runtime.device == "cuda")
        self.saved_at = time.monotonic()
        self.recent: deque[float] = deque(maxlen=_RECENT)

    def run(self, position: TrainProgress, is_new: bool) -> TrainProgress:
        """From `position` to the end."""
        self._begin(position)
        self.stepper = Stepper(
            self.state.parallel, self.state.optimizers, self.state.batches, self.settings, self.job.runtime,
            position.micro_batch, self.steps,
        )  # fmt: skip
        self.began_at, self.before, self.mark = time.monotonic(), position.wall_seconds, time.perf_counter()
        if is_new:
            first = {"step": 0, "tokens": 0, "val_loss": self._validate(position)}
            self._record(first | {"planned_rates": planned_rates(self.steps, self._rate)})
            if self.settings.spike is not None:
                self._save(position)  # so that there is a checkpoint to return to
        self.mark = time.perf_counter()
        while position.step < self.steps and not self.stop_asked:
            if self._gives_up(position):
                self._save(position)
                break
            try:
                position = self._some_steps(position)
            except _Spike as spike:
                position = self._roll_back(spike)
        self.state.checkpoints.wait()
        # a signal that came too late for the last step counts too, as hours of other stages may follow
        if self.stop_asked or any(self.job.runtime.gather(self.stop.signal_name is not None)):
            raise Interrupted(
                f"{self.job.label}: stopped by {self.stop.signal_name or 'a signal to another process'} after step"
                f" {position.step:,} of {self.steps:,}; the state is saved: run the same command again to resume"
            )
        return position

    def _gives_up(self, position: TrainProgress) -> bool:
        """Whether the job gives up at a step with a validation; the same after a restart as without one."""
        if self.job.gives_up is None or not position.step or position.step % self.job.validate_every:
            return False
        if self.log is not None:
            self.log.sync()
        return self.job.runtime.on_rank0(self.job.gives_up)

    def _begin(self, position: TrainProgress) -> None:
        """Set up what depends on the records before `position`, the same after a restart as without one."""
        self.stop_asked = self.save_asked = False

        def read() -> tuple[list[float], int, float]:
            records = [r for r in read_metrics(self.job.folder / "metrics.jsonl") if r["step"] <= position.step]
            losses = [record["loss"] for record in records if "loss" in record and "event" not in record]
            rollbacks = sum(record["step"] == position.step for record in records if "event" in record)
            lowest = min((r["val_loss"] for r in records if "val_loss" in r), default=math.inf)
            return losses[-_RECENT:], rollbacks, lowest

        losses, self.rollbacks, lowest = self.job.runtime.on_rank0(read)
        self.recent = deque(losses, maxlen=_RECENT)
        self.best = min(lowest, self.state.checkpoints.best_loss())  # steps that were rolled back count for the best

    def _some_steps(self, position: TrainProgress) -> TrainProgress:
        """Run steps up to the next validation, checkpoint, stop, or the end."""
        launched: deque[Launched] = deque()
        while True:
            launched.append(self._launch(position.step + len(launched), position))
            position = replace(position, micro_batch=self.stepper.micro_batch)
            last = position.step + len(launched)
            rest = last == self.steps or last % self.job.validate_every == 0 or self._due_by_steps(last)
            while launched and (rest or self.stop_asked or self.save_asked or len(launched) > self.ahead):
                position = self._finish(launched.popleft().outcome(), position)
            if not launched and (rest or self.stop_asked or self.save_asked):
                if self.stop_asked or self.save_asked or position.step == self.steps:
                    self._save(position)
                self.mark = time.perf_counter()
                return position

    def _launch(self, step: int, position: TrainProgress) -> Launched:
        def asks() -> tuple[bool, bool]:
            return self.stop.signal_name is not None, self._due(step + 1)

        while True:
            try:
                return self.stepper.launch(step, step + position.skipped, self._rate(step), asks)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # outside of `except`, as the error's frames hold the step's tensors
            self.state.checkpoints.note_too_large(self.stepper.micro_batch, position.asked_micro_batch)
            self.stepper.halve(f"{self.job.label}, step {step + 1}")
            logger.warning(
                f"{self.job.label}: out of memory at step {step + 1:,}; continuing with micro-batches of"
                f" {self.stepper.micro_batch} sequences, the batch stays the same"
            )

    def _finish(self, outcome: Outcome, position: TrainProgress) -> TrainProgress:
        """Read a step's figures, record them, and return the progress."""
        step = position.step + 1
        if not outcome.is_finite:
            parts = self.job.runtime.gather((outcome.to_blame, outcome.sequences))
            to_blame = [n for bad, _ in parts for n in bad] or [n for _, every in parts for n in every]
            shown = ", ".join(map(str, to_blame[:_SHOWN]))
            more = f" and {len(to_blame) - _SHOWN:,} more" if len(to_blame) > _SHOWN else ""
            what, remedy = outcome.fault
            raise Diverged(
                f"{self.job.label}, step {step}",
                f"{what} (sequences {shown}{more})",
                f"{remedy}; no checkpoint holds this step",
            )
        if (
            self.settings.spike is not None
            and len(self.recent) >= _FEWEST
            and outcome.loss > self.settings.spike * statistics.median(self.recent)
        ):
            raise _Spike(step, outcome.loss)
        self.recent.append(outcome.loss)
        now = time.perf_counter()
        took, self.mark = now - self.mark, now
        self.stop.step_seconds = took
        position = replace(position, step=step, seconds=position.seconds + took)
        record = {
            "step": step, "tokens": step * self.settings.batch_tokens, "loss": outcome.loss,
            "learning_rate": self._rate(step - 1), "gradient_norm": outcome.gradient_norm,
            "tokens_per_second": round(self.settings.batch_tokens / took, 1), "seconds": round(position.seconds, 6),
        }  # fmt: skip
        record |= outcome.terms
        if position.skipped:
            record["batches_left_out"] = position.skipped  # shows a rollback in trackers that cannot remove steps
        if step % self.job.validate_every == 0 or step == self.steps:
            record["val_loss"] = self._validate(position)
        self._record(record)
        self.stop_asked |= outcome.stop
        self.save_asked |= outcome.save
        return replace(position, wall_seconds=self.before + time.monotonic() - self.began_at)

    def _roll_back(self, spike: _Spike) -> TrainProgress:
        """Go back to the newest checkpoint and skip the batches since."""
        self.state.checkpoints.wait()
        position = self.state.restore()
        if position is None:
            raise RunError(
                f"{self.job.label}, step {spike.step}",
                f"the loss spiked to {spike.loss:.3f}, and no checkpoint to go back to is whole",
                "run the same command again: it starts from the beginning",
            )
        self.stepper.start_over()
        self._begin(position)
        if self.rollbacks == _ROLLBACKS:
            raise RunError(
                f"{self.job.label}, step {spike.step}",
                f"the loss spikes ({spike.loss:.3f}) however many batches are skipped ({_ROLLBACKS} attempts)",
                "begin in another folder with a lower train.optimizer.learning_rate or a higher train.spike;"
                " the last checkpoint is good",
            )
        first, last, before = position.step + position.skipped, spike.step - 1 + position.skipped, position
        position = replace(position, skipped=last + 1 - position.step, micro_batch=self.stepper.micro_batch)
        logger.warning(
            f"{self.job.label}: the loss spiked to {spike.loss:.3f} at step {spike.step:,}; resuming from step"
            f" {position.step:,} without the batches {first:,} to {last:,}"
        )
        if self.log is not None:
            self.log.cut(known_at(before))
            self.log.write({
                "step": position.step, "event": "spike", "at_step": spike.step, "loss": spike.loss,
                "skipped_batches": [first, last],
            })  # fmt: skip
        self._save(position)
        self.mark = time.perf_counter()
        return position

    def _rate(self, step: int) -> float:
        optimizer, schedule = self.settings.optimizer, self.settings.schedule
        return learning_rate(step, self.steps, self.warm_up, self.decay, optimizer.learning_rate, schedule)

    def _validate(self, position: TrainProgress) -> float:
        """A validation loss for the curves; the weights of the lowest one are kept."""
        module = self.state.parallel.module

        def score(examples: Examples) -> torch.Tensor:
            if self.stop.signal_name is not None and not position.step and self.job.runtime.world_size == 1:
                raise Interrupted(
                    f"{self.job.label}: stopped by {self.stop.signal_name} before the first step; nothing of it was"
                    " done: run the same command again to begin it"
                )
            size = self.stepper.micro_batch
            parts = [examples.part(first, first + size) for first in range(0, len(examples), size)]
            with self.job.runtime.autocast(self.settings.precision):
                losses = [module(one.inputs, one.targets, positions=one.positions, by_token=True) for one in parts]
            return torch.cat(losses)

        module.eval()
        loss = self.job.validate(score)
        module.train()
        if loss < self.best:
            self.best = loss
            if self.settings.checkpoint.best and position.step:
                facts = {"step": position.step, "val_loss": loss}
                self.state.checkpoints.save_best(model_tensors(self.job.model), facts)
        return loss

    def _record(self, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(record)
        if self.line is not None:
            self.line.show(record)
        if self.job.trackers is not None:  # after metrics.jsonl, from which they are completed after a kill
            self.job.trackers.write(record)

    def _due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step`, as the first process sees it."""
        late = time.monotonic() - self.saved_at >= self.settings.checkpoint.every.amount * 60
        by_time = self.settings.checkpoint.every.unit == "minutes" and self.job.runtime.is_rank0 and late
        return by_time or self._due_by_steps(step)

    def _due_by_steps(self, step: int) -> bool:
        every = self.settings.checkpoint.every
        return every.unit == "steps" and step % every.count == 0

    def _save(self, position: TrainProgress) -> None:
        if self.log is not None:
            self.log.sync()  # the checkpoint relies on every record up to its step
        self.state.checkpoints.save(position, self.state.tensors() | self.state.random())
        self.saved_at, self.save_asked = time.monotonic(), False
