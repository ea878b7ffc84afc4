"""What a list of trainings will cost: figures of each, memory, disk, and time and price on devices."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from inheritune.arch import flops_per_token
from inheritune.planner.devices import Device
from inheritune.planner.memory import MemoryConfig, largest_micro_batch, memory_of, state_bytes
from inheritune.planner.model_profile import ModelProfile
from inheritune.recipe import Evaluate, Training

if TYPE_CHECKING:
    from transformers import PretrainedConfig

AGREES = 0.02
"""FLOPs by the convention and those counted agree when they differ by at most so much of the latter."""

ASSUMED_TOKENS = 10**9
"""What is priced where nobody knows how much text there is."""

HeadRuns = Literal["in passes", "at each use", "never"]
"""When a teacher's head computes distributions."""

SUMS = ("least", "most")
"""What a plan adds up: the trainings that are certain, and all that there may be."""

_FLOAT32 = 4
_DEGREES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Taught:
    """Whom a training learns from. `stored_tokens`: those of the text, for which its outputs are computed once, for all
    trainings that share them, and take `bytes` on the disk; None where it passes every batch. There are `seeds` of it,
    as of an arm that is trained with several: each has outputs of its own.

    Its head computes distributions in its passes, at each use of stored hidden states, or never, where nothing but
    hidden states is learnt. `blocks` are those whose hidden states are stored.
    """

    name: str
    profile: ModelProfile = field(repr=False)
    stored_tokens: int | None = None
    bytes: int = 0
    seeds: int = 1
    head_runs: HeadRuns = "in passes"
    blocks: tuple[int, ...] = ()

    def flops_per_token(self, sequence_length: int) -> float:
        """FLOPs of a pass, by the convention."""
        active = sum(part.size * part.share for part in self.profile.parts())
        whole = flops_per_token(self.profile.config, active, sequence_length) / 3
        return whole if self.head_runs == "in passes" else whole - 2 * self.profile.head_size

    @property
    def flops_per_use(self) -> int:
        """FLOPs of a stored token at each use."""
        return 2 * self.profile.head_size if self.head_runs == "at each use" else 0

    @property
    def held(self) -> int:
        """Parameters in the device's memory while a model learns."""
        if self.stored_tokens is None:
            return self.profile.size()
        return self.profile.head_size if self.head_runs == "at each use" else 0


@dataclass(frozen=True)
class Planned:
    """One training that may come: the blocks `kept` of a model's `profile`, whose config is then `config`.

    `steps` are None where the text's size is not known, 0 for a model that is only judged. `epochs` is how often the
    training goes through its text. `counts` says in which sums it is: `least` of what will be made whatever the others
    come to, `most` of all that there may be. It is done once with each of `seeds`. `share` is what a stage has of the
    tokens that are assumed where steps are not known. `origins` are the teacher's blocks that `kept` were, where the
    profile's model has others.
    """

    name: str
    profile: ModelProfile
    kept: tuple[int, ...]
    config: "PretrainedConfig" = field(repr=False)
    training: Training = field(repr=False)
    steps: int | None
    epochs: float | None = None
    counts: tuple[str, ...] = ("least", "most")
    seeds: int = 1
    teacher: Taught | None = field(default=None, repr=False)
    share: float = 1.0
    origins: tuple[int, ...] | None = None

    @property
    def tokens(self) -> int:
        """Training tokens; `ASSUMED_TOKENS` where they are not known."""
        assumed = int(ASSUMED_TOKENS * self.share) // self.training.batch_tokens
        steps = assumed if self.steps is None else self.steps
        return steps * self.training.batch_tokens


@dataclass(frozen=True)
class Conditions:
    """What all trainings have in common: how they are judged, and tokens of text (`train_tokens` None: not known).

    `text_bytes`: the bytes of the files that the tokens were estimated from; None where they were not estimated.
    `devices` of one kind work together; `parallel` is the recipe's word for how.
    """

    evaluate: Evaluate
    train_tokens: int | None
    validation_tokens: int
    devices: int = 1
    parallel: str = "auto"
    text_bytes: int | None = None


def figures(planned: Planned, conditions: Conditions) -> dict[str, Any]:
    """Parameters, FLOPs and disk of one training with one seed: plain numbers, FLOPs and bytes."""
    training, length, teacher = planned.training, planned.training.sequence_length, planned.teacher
    parts = planned.profile.parts(planned.kept)
    total = sum(part.size for part in parts)
    blocks = [sum(part.size for part in parts if part.place == place) for place in range(len(planned.kept))]
    active = sum(part.size * part.share for part in parts)
    each = flops_per_token(planned.config, active, length)
    counted, inside = counted_flops(planned)
    agrees = counted is None or abs(each - counted) <= AGREES * counted
    work = each if agrees or counted is None else counted
    again = inside / 3 if training.activation_checkpointing else 0.0
    judged = _judged_tokens(planned, conditions)
    states = state_bytes(parts, training.optimizer)
    model = _FLOAT32 * total if planned.steps != 0 else 0
    checkpoint = model + states if planned.steps != 0 else 0.0
    return {
        "name": planned.name,
        "counts": list(planned.counts),
        "seeds": planned.seeds,
        "blocks": len(planned.kept),
        "kept": list(planned.kept),
        "parameters": {
            "total": total,
            "embedding": sum(part.size for part in parts if part.is_embedding),
            "blocks": blocks,
            "active": round(active),
        },
        "steps": planned.steps,
        "tokens": planned.tokens,
        "tokens_known": planned.steps is not None,
        "epochs": planned.epochs,
        "flops_per_token": each,
        "counted_flops_per_token": counted,
        "convention_agrees": agrees,
        "flops": planned.tokens * each,
        "evaluation_tokens": judged,
        "evaluation_flops": judged * each / 3,
        "teacher": None
        if teacher is None
        else {
            "name": teacher.name,
            "outputs": "online" if teacher.stored_tokens is None else "stored",
            "flops": _teacher_flops(planned),
            "head_flops": planned.tokens * teacher.flops_per_use,
        },
        "device_flops": planned.tokens * work * (1 + again) + judged * work / 3,
        "disk": {
            "model": model,
            "checkpoint": checkpoint,
            "kept": training.checkpoint.keep * checkpoint + (model if training.checkpoint.best else 0),
        },
    }


def _teacher_flops(planned: Planned) -> float:
    """FLOPs of the passes of a training's teacher with one seed."""
    teacher = planned.teacher
    if teacher is None:
        return 0.0
    tokens = planned.tokens if teacher.stored_tokens is None else teacher.stored_tokens
    return tokens * teacher.flops_per_token(planned.training.sequence_length)


def teacher_flops(trainings: Sequence[Planned], key: str) -> float:
    """FLOPs of all teachers in a sum; outputs that are stored are computed once for all trainings that share them."""
    total, shared = 0.0, dict[Taught, float]()
    for planned in trainings:
        teacher = planned.teacher
        if teacher is not None and key in planned.counts:
            if teacher.stored_tokens is None:
                total += _teacher_flops(planned) * planned.seeds
            else:
                shared[teacher] = _teacher_flops(planned) * teacher.seeds
                total += planned.tokens * teacher.flops_per_use * planned.seeds
    return total + sum(shared.values())


def summed(figured: Sequence[dict[str, Any]], key: str, value: Callable[[dict[str, Any]], float]) -> float:
    """The sum of a figure over all trainings that count in the sum `key`, with all seeds."""
    return sum((value(each) * int(each["seeds"]) for each in figured if key in each["counts"]), 0)


def sums(trainings: Sequence[Planned], figured: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """FLOPs of all trainings with all seeds, validation included, and of their teachers, named apart."""
    return {
        key: {
            "models": summed(figured, key, lambda each: each["flops"] + each["evaluation_flops"]),
            "teachers": teacher_flops(trainings, key),
        }
        for key in SUMS
    }


def counted_flops(planned: Planned) -> tuple[float | None, float]:
    """FLOPs a token of the products in a step, counted one by one (forward, and twice that backward), and the blocks'
    share of them. None, and 1, where the model's code cannot be followed without values.
    """
    length = planned.training.sequence_length
    use = planned.profile.use("float32", False, 1, length)
    if use is None:
        return None, 1.0
    inside = sum(use.blocks[planned.profile.kinds[block]].flops for block in planned.kept)
    every = inside + use.outside.flops
    return 3 * every / length, inside / max(1, every)


def _judged_tokens(planned: Planned, conditions: Conditions) -> int:
    """Tokens that losses are computed on beside the training: for the curves, and all validation text at the end."""
    evaluate = conditions.evaluate
    each = min(evaluate.sequences * planned.training.sequence_length, conditions.validation_tokens)
    if planned.steps == 0:
        return conditions.validation_tokens
    steps = planned.tokens // planned.training.batch_tokens
    times = 2 + (steps - 1) // evaluate.every.count
    return times * each + conditions.validation_tokens


def resolved(precision: str, device: Device | None) -> str:
    """The recipe's precision as the device computes in it: `auto` is bfloat16 on a GPU, float32 elsewhere."""
    if precision != "auto":
        return precision
    return "float32" if device is not None and device.is_processor else "bfloat16"


def memory_config_of(planned: Planned, precision: str, devices: int = 1, sharded: bool = False) -> MemoryConfig:
    """How the recipe trains it, with its number of sequences at once (at most 8 where it leaves that open)."""
    training = planned.training
    share = math.ceil(training.batch_sequences / devices)
    teacher, distillation, learnt = planned.teacher, training.distillation, 0
    if teacher is not None and distillation is not None and distillation.hidden_states is not None:
        pairs = distillation.hidden_states.pairs(planned.origins or planned.kept, teacher.profile.depth)
        learnt = len(pairs) * teacher.profile.config.hidden_size
    return MemoryConfig(
        precision, min(training.micro_batch_sequences, share), training.sequence_length, training.optimizer,
        training.activation_checkpointing, devices, sharded,
        teacher=0 if teacher is None else teacher.held,
        teacher_states=learnt,
    )  # fmt: skip


def memory_table(planned: Planned) -> list[dict[str, Any]]:
    """The memory of a device for each precision and number of devices that share the model by FSDP."""
    rows = []
    for precision in ("bfloat16", "float32"):
        for devices in _DEGREES:
            if devices > planned.training.batch_sequences:
                continue
            setup = memory_config_of(planned, precision, devices)
            if devices == 1 or setup.optimizer.one_process_only is None:
                memory = memory_of(planned.profile, planned.kept, setup)
                place = {"precision": precision, "devices": devices, "micro_batch": setup.micro_batch}
                rows.append({**place, **asdict(memory), "total": memory.total})
    return rows


def on_device(
    device: Device, trainings: Sequence[Planned], figured: Sequence[dict[str, Any]], conditions: Conditions
) -> dict[str, Any]:
    """Memory, time and price on a device: hours and dollars from and to, least and most."""
    largest = most_demanding(trainings)
    precision = resolved(largest.training.precision, device)
    flops = {
        key: summed(figured, key, lambda each: each["device_flops"]) + teacher_flops(trainings, key) for key in SUMS
    }
    low, high = (rate * conditions.devices for rate in device.rates(precision))
    hours = {key: [work / high / 3600, work / low / 3600] for key, work in flops.items()}
    each = conditions.devices * device.price
    return {
        "name": device.name,
        "devices": conditions.devices,
        "precision": precision,
        "memory": device.memory,
        "usable": device.usable,
        "peak_flops_per_second": device.peak(precision),
        "utilisation": None if device.measured else list(device.utilisation),
        "flops_per_second": [low, high],
        "price_per_hour": device.price,
        "hours": hours,
        "hours_at_peak": {
            key: work / (device.peak(precision) * conditions.devices) / 3600 for key, work in flops.items()
        },
        "price": {key: [hour * each for hour in pair] for key, pair in hours.items()},
        **_fitting(device, largest, precision, conditions),
    }


def most_demanding(trainings: Sequence[Planned]) -> Planned:
    """The training of the largest model, with its teacher: what it needs, all need."""

    def held(planned: Planned) -> float:
        return 16 * planned.profile.size(planned.kept) + 4 * memory_config_of(planned, "float32").teacher

    return max((planned for planned in trainings if planned.steps != 0), key=held)


def _fitting(device: Device, planned: Planned, precision: str, conditions: Conditions) -> dict[str, Any]:
    """Micro-batch and memory on a device, and whether that fits."""
    share = math.ceil(planned.training.batch_sequences / conditions.devices)
    room = device.usable * device.memory
    is_large = 16 * planned.profile.size(planned.kept) >= device.memory / 4
    fsdp = conditions.parallel in ("fsdp", "hsdp") or (
        conditions.devices > 1 and conditions.parallel == "auto" and is_large
    )
    # how many devices a node has is not known here; 8 is the most common number
    shards = min(conditions.devices, 8) if conditions.parallel == "hsdp" else conditions.devices
    setup = memory_config_of(planned, precision, shards if fsdp else 1, fsdp)
    setup = replace(setup, micro_batch=min(setup.micro_batch, share))
    if planned.training.micro_batch == "auto" and not device.is_processor:
        most = largest_micro_batch(planned.profile, planned.kept, setup, share, room)
        setup = replace(setup, micro_batch=max(1, most))
    memory = memory_of(planned.profile, planned.kept, setup)
    unsharded = "ddp" if conditions.devices > 1 else "alone"
    return {
        "parallel": ("hsdp" if shards < conditions.devices else "fsdp") if fsdp else unsharded,
        "micro_batch": setup.micro_batch,
        "needs": memory.total,
        "fits": memory.total <= room,
    }


def disk(
    trainings: Sequence[Planned], figured: Sequence[dict[str, Any]], conditions: Conditions, vocabulary: int
) -> dict[str, Any]:
    """Bytes on the disk: prepared tokens, saved models, checkpoints that stay, one more while it is written, and
    teachers' outputs that are stored.
    """
    known = conditions.train_tokens
    data = None if known is None else (2 if vocabulary <= 2**16 else 4) * (known + conditions.validation_tokens)
    result: dict[str, Any] = {"data": data}
    for key in SUMS:
        checkpoints = (each["disk"]["checkpoint"] for each in figured if key in each["counts"])
        teachers = {each.teacher for each in trainings if each.teacher is not None and key in each.counts}
        parts = {
            "models": summed(figured, key, lambda each: each["disk"]["model"]),
            "checkpoints": summed(figured, key, lambda each: each["disk"]["kept"]),
            "being_written": max(checkpoints, default=0),
            "teachers": sum(teacher.bytes * teacher.seeds for teacher in teachers),
        }
        result[key] = {**parts, "total": sum(parts.values()) + (data or 0)}
    return result
