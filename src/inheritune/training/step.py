"""One optimizer step: forward and backward by micro-batches, the gradient's norm, a check, the update."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from inheritune.data import Batches, MicroBatch
from inheritune.errors import RunError
from inheritune.optimizers.stepping import set_learning_rate, step_if_finite
from inheritune.recipe import Training
from inheritune.runtime import Runtime, random_state, restore_random_state
from inheritune.training.parallel import ParallelModel

_FITS = 0.92  # of a GPU's memory: the rest is for the allocator's gaps


@dataclass(frozen=True)
class Outcome:
    """The results of a step.

    The batch's mean loss per target that counts, the gradient's norm, and whether some process asks for a stop or a
    checkpoint. `sequences` are this process's, `to_blame` those of its micro-batches whose loss is not finite. `terms`
    are the losses by name, means too, where there are several.
    """

    loss: float
    gradient_norm: float
    stop: bool
    save: bool
    sequences: list[int]
    to_blame: list[int]
    terms: dict[str, float]

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite; if not, no weight has changed."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)

    @property
    def fault(self) -> tuple[str, str]:
        """What is wrong where they are not finite, and the remedy."""
        what = f"the loss is {self.loss}, the gradient norm {self.gradient_norm}"
        if self.loss == math.inf and math.isfinite(self.gradient_norm):  # an overflow would be in both
            forbids = "the model gives probability 0 to a token of the text, or to one to which its teacher gives more"
            return f"{what}: {forbids}", "check which entries the model's head forbids (a bias or a mask of -inf)"
        return what, "begin in another folder with a lower train.optimizer.learning_rate, or look at these sequences"


class Launched:
    """A step whose work is on the device's queue."""

    def __init__(self, figures: torch.Tensor, micro_batches: list[MicroBatch], terms: tuple[str, ...]) -> None:
        """`figures` are loss, norm, stop, save, the `terms`, and each micro-batch's loss."""
        self._micro_batches, self._terms = micro_batches, terms
        self._event: Any = None
        if figures.device.type == "cuda":
            self._figures = torch.empty(figures.shape, dtype=figures.dtype, pin_memory=True)
            self._figures.copy_(figures, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._figures = figures

    def outcome(self) -> Outcome:
        """Wait for the device, for this step only."""
        if self._event is not None:
            self._event.synchronize()
        loss, norm, stop, save, *more = self._figures.tolist()
        terms, each = more[: len(self._terms)], more[len(self._terms) :]
        sequences = [number for micro_batch in self._micro_batches for number in micro_batch.numbers]
        bad = [m for m, value in zip(self._micro_batches, each, strict=True) if not math.isfinite(value)]
        to_blame = [number for m in bad for number in m.numbers]
        return Outcome(loss, norm, stop > 0, save > 0, sequences, to_blame, dict(zip(self._terms, terms, strict=True)))


class Stepper:
    """Launches steps without waiting for the device, except for optimizers without a no-op step."""

    def __init__(
        self, parallel: ParallelModel, optimizers: list[torch.optim.Optimizer], batches: Batches, settings: Training,
        runtime: Runtime, micro_batch: int, steps: int,
    ) -> None:  # fmt: skip
        self.steps = steps
        self.parallel, self.optimizers, self.batches = parallel, optimizers, batches
        self.settings, self.runtime, self.micro_batch = settings, runtime, micro_batch
        parallel.module.choose_form(micro_batch * settings.sequence_length)
        self._parameters = [p for p in parallel.module.parameters() if p.requires_grad]
        self._bad = torch.zeros((), device=runtime.device)  # stays 1, so that later queued steps do nothing

    def launch(self, step: int, batch: int, rate: float, asks: Callable[[], tuple[bool, bool]]) -> Launched:
        """Queue optimizer step `step` (from 0) on the batch of this number at this learning rate.

        `asks`, called when the gradients are queued, returns whether this process asks for a stop and a checkpoint.
        """
        set_learning_rate(self.optimizers, rate)
        self.parallel.module.set_step(step, self.steps, self.settings.batch_tokens)
        self.clear()
        self._random = random_state(self.runtime.device)
        micro_batches = self.batches.micro_batches(batch, self.micro_batch)
        self.parallel.module.train()
        losses_MS = torch.stack(list(self._losses(micro_batches, self._counted(micro_batches))))
        self.parallel.drop_unreached_gradients()
        limit = self.settings.optimizer.clip if self.settings.optimizer.clip is not None else math.inf
        norm: Any = torch.nn.utils.clip_grad_norm_(self._parameters, limit)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        shared = self._sum([*self._on_device([float(flag) for flag in asks()]), *losses_MS.sum(dim=0)])
        figures = torch.stack([shared[2], norm.to(shared), *shared[:2], *shared[3:], *losses_MS[:, 0]])
        self._bad = torch.maximum(self._bad, (~torch.isfinite(figures[:2]).all()).float())
        step_if_finite(self.optimizers, self._bad)
        return Launched(figures, micro_batches, self.parallel.module.terms)

    def halve(self, place: str) -> None:
        """Continue with micro-batches of half the size, after a step that ran out of memory.

        The step can then be repeated: dropout draws the same numbers again. Raises RunError, naming `place`, where
        there is nothing to halve, and on several processes, as the others are in the middle of that step.
        """
        if self.micro_batch == 1 or self.runtime.world_size > 1:
            remedy = "shorten sequences, or set train.activation_checkpointing, then run again"
            if self.micro_batch > 1:
                remedy = f"run again to resume from the last checkpoint, with micro-batches of {self.micro_batch // 2}"
            raise RunError(place, f"out of memory with micro-batches of {self.micro_batch} sequences", remedy)
        self.micro_batch //= 2
        restore_random_state(self._random)
        self.parallel.module.choose_form(self.micro_batch * self.settings.sequence_length)
        self.clear()
        if self.runtime.device == "cuda":
            torch.cuda.empty_cache()

    def start_over(self) -> None:
        """Update weights again after a return to an earlier state, whatever the results of the steps before."""
        self._bad.zero_()
        self.clear()

    def clear(self) -> None:
        """Remove gradients, also those of a step that did not finish."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _counted(self, micro_batches: list[MicroBatch]) -> int | torch.Tensor:
        """How many targets count in the batch of all processes, at least 1; with several it stays on the device."""
        own = sum(micro_batch.counted for micro_batch in micro_batches)
        if self.runtime.world_size == 1:
            return max(1, own)
        return self._sum(self._on_device([float(own)]))[0].clamp(min=1)

    def _losses(self, micro_batches: list[MicroBatch], counted: int | torch.Tensor) -> Iterable[torch.Tensor]:
        """Forward and backward; each micro-batch's share of the mean over all targets that count in the batch of all
        processes, (S,): of the loss, and of its terms.
        """
        device = self.runtime.device
        for micro_batch in micro_batches:
            examples = micro_batch.examples.to(device)
            stored = [tensor.to(device, non_blocking=True) for tensor in micro_batch.stored]
            with self.parallel.accumulating(last=micro_batch is micro_batches[-1]):
                with self.runtime.autocast(self.settings.precision):
                    sums = self.parallel.call(
                        examples.inputs, examples.targets, *stored, positions=examples.positions, places=examples.places
                    )
                sums = sums.reshape(-1) / counted
                processes = self.runtime.dp_size  # combining gradients divides them by this number
                (sums[0] * processes if processes > 1 else sums[0]).backward()
            yield sums.detach()

    def _on_device(self, values: list[float]) -> list[torch.Tensor]:
        tensor = torch.tensor(values)
        if self.runtime.device == "cuda":
            tensor = tensor.pin_memory()
        return list(tensor.to(self.runtime.device, non_blocking=True))

    def _sum(self, values: list[torch.Tensor]) -> torch.Tensor:
        """The values' sums over all processes."""
        sums = torch.stack(values)
        if self.runtime.world_size > 1:
            dist.all_reduce(sums)
        return sums


def largest_micro_batch(
    parallel: ParallelModel, settings: Training, runtime: Runtime, batches: Batches, vocabulary: int
) -> int:
    """The largest power of two of sequences, up to a process's share of a batch, that a GPU has memory for.

    Found by trying: random tokens, the model not compiled, doubled as long as the peaks so far predict that it fits.
    """
    size, peaks = 1, list[int]()
    # the smallest of all processes, as all must choose the same size
    resting = min(runtime.gather(torch.cuda.memory_allocated()))
    total = min(runtime.gather(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory))
    while True:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        parallel.module.choose_form(size * settings.sequence_length)
        length = settings.sequence_length + len(batches.sequences.packing.prefix)
        tokens = torch.randint(0, vocabulary, (size, length), device=runtime.device)
        stored = [tensor.to(runtime.device) for tensor in batches.stored(np.zeros(size, np.int64))]
        with runtime.autocast(settings.precision):
            loss = parallel.module(tokens, tokens, *stored).reshape(-1)[0]
        loss.backward()
        del loss, stored
        parallel.module.zero_grad(set_to_none=True)
        peaks.append(max(runtime.gather(torch.cuda.max_memory_allocated())))
        # in the trial the gradients of one micro-batch are reduced at once
        room = _FITS * total - (parallel.whole_bytes if size * 2 < batches.share else 0)
        if size * 2 > batches.share or expected_peak(peaks, resting) > room:
            torch.cuda.empty_cache()
            return size
        size *= 2


def expected_peak(peaks: list[int], resting: int) -> int:
    """Bytes at twice the size of the last of `peaks`, which were reached with 1, 2, 4 ... sequences.

    Two of them show what a sequence adds; after one, everything beyond `resting` (weights, states) counts as added.
    """
    if len(peaks) == 1:
        return peaks[0] + max(0, peaks[0] - resting)
    return peaks[-1] + 2 * (peaks[-1] - peaks[-2])
