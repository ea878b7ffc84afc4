"""What cannot be, or is not what it seems, in a plan: sentences with the arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inheritune.planner.costs import Conditions, Planned, most_demanding
from inheritune.planner.devices import DEVICES, Device

_REPEATED = 4  # epochs up to which repeated text is worth nearly as much as new text


@dataclass(frozen=True)
class _Claim:
    """A published training: `blocks` of a model of `of` blocks and this hidden size, on `tokens` in `hours`."""

    source: str
    of: int
    hidden: int
    blocks: int
    tokens: float
    hours: float
    device: str


_PUBLISHED = _Claim("arXiv 2404.08634 v1", 26, 3200, 13, 1e9, 12, "A6000")


def warnings(
    trainings: Sequence[Planned], found: Sequence[dict[str, Any]], devices: Sequence[dict[str, Any]],
    conditions: Conditions, within: float | None = None,
) -> list[str]:  # fmt: skip
    """Sentences for people, each on its own. `found` are the trainings' figures, `within` hours that are to be kept."""
    said: list[str | None] = []
    published = [_published(planned, figures) for planned, figures in zip(trainings, found, strict=True)]
    said += [sentence for sentence in published if sentence][:1]
    said += [_unlike(planned, figures) for planned, figures in zip(trainings, found, strict=True)]
    said += [_memory(trainings, devices), _float8(trainings, devices), *_text(trainings, conditions)]
    if within is not None:
        said.append(_too_long(devices, within))
    return list(dict.fromkeys(sentence for sentence in said if sentence))


def _published(planned: Planned, figures: dict[str, Any]) -> str | None:
    """The published 12 hours, where the training is of the published shape."""
    claim = _PUBLISHED
    shape = (planned.profile.depth, getattr(planned.config, "hidden_size", None), len(planned.kept))
    if shape != (claim.of, claim.hidden, claim.blocks) or planned.steps == 0:
        return None
    card: Device = next(device for device in DEVICES if device.name == claim.device)
    each, tokens = figures["flops_per_token"], f"{claim.tokens / 1e9:g}B tokens"
    work = claim.tokens * each
    low, high = card.utilisation
    hours = work / card.bfloat16 / 3600
    return (
        f"{planned.name}: {claim.source} states {tokens} of this in under {claim.hours:g} hours on one {claim.device}."
        f" That cannot be: {tokens} x {each / 1e9:.2f} GFLOP are {work:.2e} FLOP, in {claim.hours:g} hours"
        f" {work / claim.hours / 3600 / 1e12:.0f} TFLOP/s, and the card's dense bfloat16 peak is"
        f" {card.bfloat16 / 1e12:.0f}. It takes {hours:.1f} hours at the peak, {hours / high:.0f} to {hours / low:.0f}"
        f" at {high:.0%} to {low:.0%} of it. What is planned here, {planned.tokens / 1e9:.2f}B tokens"
        f"{_epochs(planned)}, is {planned.tokens / claim.tokens:.1f} times that."
    )


def _epochs(planned: Planned) -> str:
    return "" if planned.epochs is None else f" ({planned.epochs:.3g} epochs)"


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
    smaller = settings.optimizer.less_memory()
    if smaller is not None:
        ways.append(smaller[0])
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
    said = []
    for planned in trainings:
        if planned.epochs is not None and planned.epochs > _REPEATED:
            said.append(
                f"{planned.name}: {planned.tokens:,} tokens go through {conditions.train_tokens:,} of text"
                f" {planned.epochs:.3g} times; beyond about {_REPEATED} times repeated text teaches less and less"
                " (Muennighoff et al., 2023)."
            )
    if len(said) > 1:
        said = [f"{said[0]} So do {len(said) - 1} more."]
    return said


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
