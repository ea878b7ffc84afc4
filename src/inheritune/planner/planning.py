"""The whole plan of a list of trainings, as data, with warnings of what cannot be or is not what it seems."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inheritune.planner.costs import Conditions, Planned, disk, figures, memory_table, most_demanding, on_device, sums
from inheritune.planner.devices import DEVICES, Device
from inheritune.planner.fitting import fit

_REPEATED = 4  # epochs up to which repeated text is worth nearly as much as new text

LEFT_OUT = (
    "memory: what CUDA, NCCL and the allocator's gaps take (plan with 92 % of a device), and what torch.compile saves;"
    " models are built in the host's memory first",
    "time: reading and preparing text, loading and compiling, checkpoints, waiting for other devices;"
    " several devices count as that many times one",
    "disk: what preparing keeps beside the tokens for its next start, and the reference's own files",
)
"""What no figure of a plan has in it."""


@dataclass(frozen=True)
class Bounds:
    """A plan turned round: bytes of a device's memory and hours that are to be kept; one of the trainings, and such as
    it with other numbers of blocks, by rising depth.
    """

    memory: float | None
    hours: float | None
    own: Planned
    candidates: Sequence[Planned]


def plan(
    trainings: Sequence[Planned], conditions: Conditions, devices: Sequence[Device], bounds: Bounds | None = None
) -> dict[str, Any]:
    """What the trainings cost and whether they can work, as JSON values: FLOPs, bytes, hours, dollars.

    `memory` is that of the largest model that is trained. `least` counts the trainings that are certain, `most` all.
    Takes about a second for a reference of 30 blocks; nothing is loaded.
    """
    figured = [figures(planned, conditions) for planned in trainings]
    largest = most_demanding(trainings)
    rows = [on_device(device, trainings, figured, conditions) for device in devices]
    vocabulary = largest.config.vocab_size
    result: dict[str, Any] = {
        "trainings": figured,
        "flops": sums(trainings, figured),
        "memory_of": largest.name,
        "memory": memory_table(largest),
        "memory_is_whole": largest.profile.unfollowed is None,
        "sequence_length": largest.training.sequence_length,
        "text": {
            "train_tokens": conditions.train_tokens,
            "validation_tokens": conditions.validation_tokens,
            "estimated_from_bytes": conditions.text_bytes,
        },
        "disk": disk(trainings, figured, conditions, vocabulary),
        "devices": rows,
        "warnings": _warnings(trainings, figured, rows, conditions, None if bounds is None else bounds.hours),
        "left_out": list(LEFT_OUT),
    }
    if bounds is not None:
        result["fit"] = fit(bounds.candidates, bounds.own, bounds.memory, bounds.hours, devices, conditions)
    return result


def _warnings(
    trainings: Sequence[Planned], figured: Sequence[dict[str, Any]], devices: Sequence[dict[str, Any]],
    conditions: Conditions, within: float | None,
) -> list[str]:  # fmt: skip
    """Sentences for people. `figured` are the trainings' figures, `within` hours that are to be kept."""
    sentences = [_unlike(planned, figures) for planned, figures in zip(trainings, figured, strict=True)]
    sentences += [_memory(trainings, devices), _float8(trainings, devices), *_text(trainings, conditions)]
    if within is not None:
        sentences.append(_too_long(devices, within))
    return list(dict.fromkeys(sentence for sentence in sentences if sentence))


def _unlike(planned: Planned, figures: dict[str, Any]) -> str | None:
    """Where the convention's FLOPs are not what the model multiplies."""
    kind, reason = planned.config.model_type, planned.profile.unfollowed
    if reason is not None:
        return (
            f"{kind}: its code cannot be followed without values ({reason}), so activations and logits are not in the"
            " memory, which is a lower bound, and FLOPs are the convention's alone."
        )
    if figures["convention_agrees"]:
        return None
    each, counted = figures["flops_per_token"], figures["counted_flops_per_token"]
    return (
        f"{kind}: by the convention (6 N + 12 L H Q T) a token takes {each / 1e9:.4g} GFLOP, the products counted one"
        f" by one {counted / 1e9:.4g} ({counted / each - 1:+.0%}). The convention takes every block for attention with"
        " all its heads over the whole sequence, and every tensor for a matrix. Hours are by what was counted."
    )


def _memory(trainings: Sequence[Planned], devices: Sequence[dict[str, Any]]) -> str | None:
    tight: dict[float, list[str]] = {}
    for device in devices:
        if not device["fits"]:
            tight.setdefault(device["usable"], []).append(device["name"])
    if not tight:
        return None
    largest = most_demanding(trainings)
    settings = largest.training
    ways = [] if settings.activation_checkpointing else ["train.activation_checkpointing=true"]
    ways += [f"train.{override}" for override in settings.optimizer.less_memory()]
    if settings.micro_batch != 1:
        ways.append("train.micro_batch=1")
    ways.append("several devices (--gpus N)")
    return (
        f"{largest.name} does not fit into "
        + ", nor into ".join(f"{share:.0%} of the memory of {', '.join(names)}" for share, names in tight.items())
        + ". What saves memory:"
        f" {', '.join(ways)}; --fit 24GB says what fits."
    )


def _float8(trainings: Sequence[Planned], devices: Sequence[dict[str, Any]]) -> str | None:
    if all(planned.training.precision != "float8" for planned in trainings):
        return None
    able = {device.name for device in DEVICES if device.has_float8}
    lacking = [device["name"] for device in devices if device["name"].removesuffix(", measured") not in able]
    without = f" {', '.join(lacking)} cannot multiply it at all." if lacking else ""
    return f"train.precision: float8 is planned as bfloat16, since only a part of the products is in float8.{without}"


def _text(trainings: Sequence[Planned], conditions: Conditions) -> list[str]:
    """What the amount of text says, where it is known."""
    if conditions.train_tokens is None:
        some = next((planned for planned in trainings if planned.steps is None), None)
        if some is None:
            return []
        return [
            "How much text there is is not known without reading it, so a length in epochs is none in tokens:"
            f" {some.tokens / 1e9:g}B tokens are priced. Give --data.size, or prepare the text first (data.prepared)."
        ]
    sentences = []
    if conditions.text_bytes is not None:
        sentences.append(
            f"The training text is taken to have {conditions.train_tokens:,} tokens, estimated from"
            f" {conditions.text_bytes / 1e6:,.1f} MB of files without reading them; this may be wrong by a third."
        )
    repeated = [planned for planned in trainings if (planned.epochs or 0) > _REPEATED]
    if not repeated:
        return sentences
    first, more = repeated[0], f" So do {len(repeated) - 1} more." if len(repeated) > 1 else ""
    return [
        *sentences,
        f"{first.name}: {first.tokens:,} tokens go through {conditions.train_tokens:,} of text {first.epochs:.3g}"
        f" times; beyond about {_REPEATED} times repeated text teaches less and less (Muennighoff et al., 2023).{more}",
    ]


def _too_long(devices: Sequence[dict[str, Any]], within: float) -> str | None:
    """Where not even the peak of a device keeps the time."""
    slow = [device for device in devices if device["hours_at_peak"]["least"] > within]
    if not slow:
        return None
    named = ", ".join(
        f"{device['name']} ({device['hours_at_peak']['least']:,.1f} hours at"
        f" {device['peak_flops_per_second'] * device['devices'] / 1e12:.3g} TFLOP/s)"
        for device in slow
    )
    return f"{within:g} hours are below the physical limit, the full peak, for the least that is planned: {named}."
