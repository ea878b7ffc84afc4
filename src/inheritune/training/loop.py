"""The training loop: a model, sequences and a loss in; a trained model, metrics and checkpoints out."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.data import Sequences, batch_numbers
from inheritune.errors import InputError, Interrupted, RunError
from inheritune.losses import next_token_losses
from inheritune.recipe import Training
from inheritune.runlog import LiveLine, MetricsLog, Terminal, Trackers
from inheritune.runtime import Runtime
from inheritune.training.checkpoint import Position, restore_newest, save_checkpoint
from inheritune.training.optimizer import build_optimizer, learning_rate

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Job:
    """One training. `model` is trained in place, in float32, on the runtime's device; `validate` gives a loss for the
    curves every `validate_every` steps and decides nothing.
    """

    label: str
    model: "torch.nn.Module"
    sequences: Sequences
    settings: Training
    seed: int
    folder: Path
    runtime: Runtime
    terminal: Terminal
    validate: Callable[[], float]
    validate_every: int
    trackers: Trackers | None = None


def planned_steps(settings: Training, sequences: Sequences) -> int:
    """Optimizer steps of a training. Raises InputError when the length is less than a step or all of it is warm-up."""
    steps = settings.steps(sequences.count)
    if steps < 1:
        raise InputError(
            "train.length",
            f"{settings.length} is less than one step of {settings.batch_tokens:,} tokens",
            "give a longer length or a smaller batch",
        )
    warm_up = settings.warm_up_steps(steps)
    if warm_up >= steps and steps > 1:
        raise InputError("train.schedule.warm_up", f"{warm_up} of {steps} steps", "give fewer warm-up steps than steps")
    return steps


def train_steps(job: Job) -> Position:
    """Train to the end, going on from the newest good checkpoint in `job.folder`/checkpoints.

    Writes metrics.jsonl there: per step the mean loss of the batch in nats a token, learning rate, gradient norm,
    tokens so far, tokens per second. Raises Interrupted, after saving, on Ctrl-C or SIGTERM; RunError when loss or
    gradient is not finite, before the optimizer has seen it.
    """
    import torch

    steps = planned_steps(job.settings, job.sequences)
    rt.seed(job.seed)
    optimizer = build_optimizer(job.model, job.settings.optimizer)
    position = restore_newest(job.folder / "checkpoints", job.model, optimizer, job.terminal.warn)
    if position.step:
        job.terminal.say(f"{job.label}: going on from step {position.step:,} of {steps:,}")
    forward = torch.compile(job.model) if job.settings.compile is True else job.model
    log = MetricsLog(job.folder / "metrics.jsonl", position.step)
    try:
        with job.terminal.live(job.label, steps, position.step) as line, rt.stop_on_signal() as stop:
            return _Loop(job, optimizer, forward, log, line, stop, steps).run(position)
    finally:
        log.close()


class _Loop:
    """The state of a running training."""

    def __init__(
        self, job: Job, optimizer: "torch.optim.Optimizer", forward: Any, log: MetricsLog, line: LiveLine,
        stop: rt.StopRequest, steps: int,
    ) -> None:  # fmt: skip
        self.job, self.optimizer, self.forward = job, optimizer, forward
        self.log, self.line, self.stop, self.steps = log, line, stop, steps
        self.warm_up = job.settings.warm_up_steps(steps)
        self.saved_at = time.monotonic()

    def run(self, position: Position) -> Position:
        began_at, before = time.monotonic(), position.wall_seconds
        if position.step == 0:
            self._record({"step": 0, "tokens": 0, "val_loss": self.job.validate()})
        while position.step < self.steps:
            began = time.perf_counter()
            record = self._step(position.step)
            took = time.perf_counter() - began
            position = replace(position, step=position.step + 1, seconds=position.seconds + took)
            record["tokens_per_second"] = round(self.job.settings.batch_tokens / took, 1)
            record["seconds"] = round(position.seconds, 3)
            if position.step % self.job.validate_every == 0 or position.step == self.steps:
                record["val_loss"] = self.job.validate()
            self._record(record)
            position = replace(position, wall_seconds=before + time.monotonic() - began_at)
            if self.stop.signal_name is not None or position.step == self.steps or self._due(position.step):
                self._save(position)
            if self.stop.signal_name is not None and position.step < self.steps:
                raise Interrupted(
                    f"{self.job.label}: stopped by {self.stop.signal_name} after step {position.step:,} of"
                    f" {self.steps:,}; the state is saved: run the same command again to go on"
                )
        return position

    def _step(self, step: int) -> dict[str, Any]:
        """One optimizer step on the sequences that belong to it; returns its metrics."""
        import torch

        job, settings = self.job, self.job.settings
        numbers = batch_numbers(step, settings.batch_sequences, job.sequences.count, job.seed)
        rate = learning_rate(step, self.steps, self.warm_up, settings.optimizer.learning_rate, settings.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        job.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=job.runtime.device)
        for first in range(0, len(numbers), settings.micro_batch_sequences):
            tokens = torch.from_numpy(job.sequences.rows(numbers[first : first + settings.micro_batch_sequences]))
            with job.runtime.autocast(settings.precision):
                losses = next_token_losses(self.forward, tokens.to(job.runtime.device))
            # the mean over the whole batch, so that it does not matter how the batch is split
            share = losses.sum() / settings.batch_tokens
            share.backward()  # type: ignore[no-untyped-call]
            total += share.detach()
        limit = settings.optimizer.clip if settings.optimizer.clip is not None else math.inf
        norm = torch.nn.utils.clip_grad_norm_(job.model.parameters(), limit)
        loss, gradient = total.item(), norm.item()
        if not (math.isfinite(loss) and math.isfinite(gradient)):
            raise RunError(
                f"{job.label}, step {step + 1}",
                f"the loss is {loss}, the gradient norm {gradient} (sequences {numbers[:8]} ...)",
                "lower train.optimizer.learning_rate, or look at these sequences; the last checkpoint is good",
            )
        self.optimizer.step()
        tokens_done = (step + 1) * settings.batch_tokens
        return {
            "step": step + 1,
            "tokens": tokens_done,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": gradient,
        }

    def _record(self, record: dict[str, Any]) -> None:
        self.log.write(record)
        self.line.show(record)
        if self.job.trackers is not None:
            self.job.trackers.write(record)

    def _due(self, step: int) -> bool:
        every = self.job.settings.checkpoint.every
        if every.unit == "steps":
            return step % every.count == 0
        return time.monotonic() - self.saved_at >= every.amount * 60

    def _save(self, position: Position) -> None:
        self.log.sync()  # the checkpoint counts on every record up to its step
        folder = self.job.folder / "checkpoints"
        save_checkpoint(
            folder,
            position,
            self.job.model,
            self.optimizer,
            self.job.runtime.device,
            self.job.settings.checkpoint.keep,
        )
        self.saved_at = time.monotonic()
