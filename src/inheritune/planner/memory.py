"""What a training holds on one device at its peak, part by part: arithmetic on a model's profile."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from inheritune.planner.model_profile import ModelProfile, Part
from inheritune.recipe import Optimizer

if TYPE_CHECKING:
    from inheritune.planner.fake_step import StepUse

_FLOAT32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one device. Where the model's code cannot be followed without values (`ModelProfile.unfollowed`) only
    weights, gradients and states are known, and the rest is 0.

    `working` is what copies of weights in another precision take (with FSDP those that are gathered at once, and
    gradients on their way), and what a block's backward pass takes beyond the loss's. `teacher` are the weights of one
    that passes every batch, or of its head alone, whole on each device, and its hidden states that are learnt.
    """

    weights: float
    gradients: float
    states: float
    activations: float = 0.0
    logits: float = 0.0
    working: float = 0.0
    teacher: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class MemoryConfig:
    """How a model is trained, as far as memory goes: `devices` above 1 share it by FSDP (`sharded` for FSDP on one).

    `teacher` are the parameters of a teacher that are in memory, `teacher_states` the numbers of its hidden states
    that are learnt, for each token.
    """

    precision: str
    micro_batch: int
    sequence_length: int
    optimizer: Optimizer
    activation_checkpointing: bool
    devices: int = 1
    sharded: bool = False
    teacher: int = 0
    teacher_states: int = 0


def memory_of(profile: ModelProfile, kept: Sequence[int], setup: MemoryConfig) -> Memory:
    """The memory of training the blocks `kept` of a model."""
    sharded = setup.sharded or setup.devices > 1
    half = setup.precision != "float32"
    use = profile.use("bfloat16" if half else "float32", sharded, setup.micro_batch, setup.sequence_length)
    parts = profile.parts(kept)
    weights = _FLOAT32 * profile.size(kept) / setup.devices
    states = state_bytes(parts, setup.optimizer) / setup.devices if setup.optimizer.states_on_device else 0.0
    learnt = setup.micro_batch * setup.sequence_length * setup.teacher_states
    each = 2.0 if half else _FLOAT32
    as_float32 = 2 if sharded and half else 1  # copies of the teacher's states or the difference, and of half own ones
    teacher = setup.teacher * each + learnt * (each + as_float32 * _FLOAT32)
    fixed = Memory(weights, weights, states, teacher=teacher)
    if use is None:
        return fixed
    kinds = [profile.kinds[block] for block in kept]
    casts = use.outside.casts + sum(use.blocks[kind].casts for kind in kinds)
    copies = _gathered(parts, half) if sharded else casts
    return replace(
        fixed,
        activations=_activations(use, kinds, setup.activation_checkpointing),
        logits=use.logits,
        working=copies + max(0, use.working - use.logits),
    )


def state_bytes(parts: Sequence[Part], optimizer: Optimizer) -> float:
    """What the optimizer keeps between steps, in bytes, wherever it lies."""
    return sum(optimizer.state_bytes(part.size, part.dimensions, part.place is not None) for part in parts)


def _activations(use: "StepUse", kinds: Sequence[int], checkpointed: bool) -> float:
    """What is kept for the backward pass; checkpointed: what blocks hand on, and the largest block in full."""
    kept = [use.blocks[kind].kept for kind in kinds]
    inside = sum(use.blocks[kind].passed for kind in kinds) + max(kept) if checkpointed else sum(kept)
    return use.outside.kept + inside


def _gathered(parts: Sequence[Part], half: bool) -> float:
    """With FSDP: all outside the blocks, a block and the next one; gradients of the largest on their way to be divided,
    in the precision of the products and in float32.
    """
    each = 2 if half else _FLOAT32
    blocks: dict[int, int] = {}
    for part in parts:
        if part.place is not None:
            blocks[part.place] = blocks.get(part.place, 0) + part.size
    outside = sum(part.size for part in parts if part.place is None)
    largest = max(blocks.values(), default=0)
    return each * (outside + 2 * largest) + (each + _FLOAT32 * half) * max(outside, largest)


def largest_micro_batch(
    profile: ModelProfile, kept: Sequence[int], setup: MemoryConfig, share: int, room: float
) -> int:
    """The largest power of two of sequences, up to `share`, with which a training takes at most `room` bytes; 0 where
    not even one does. `setup.micro_batch` does not matter.
    """

    def total(size: int) -> float:
        return memory_of(profile, kept, replace(setup, micro_batch=size)).total

    one, two = total(1), total(2)
    size = 1
    while 2 * size <= share and one + (2 * size - 1) * (two - one) <= room:
        size *= 2
    while size and total(size) > room:  # what a sequence adds is not quite the same for all
        size //= 2
    return size
