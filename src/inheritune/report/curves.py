"""Loss curves over steps, tokens and FLOPs, read from metrics files."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inheritune.results import ReferenceSummary, SeedSummary, read_judged
from inheritune.runlog import read_metrics

AXES = ("steps", "tokens", "flops")
"""What curves are drawn over. All stages of a training count."""

_ROUNDING = 1e-9  # nats

Points = list[dict[str, float]]
"""Each has `val_loss` and those of AXES that are known."""


@dataclass(frozen=True)
class Curve:
    """The validation losses of a training."""

    name: str
    points: Points
    role: str = "arm"
    """"reference" and "control" are drawn so that they can be told apart."""


@dataclass(frozen=True)
class Curves:
    """What is drawn together; `levels` are lines across: a reference's final loss by its name."""

    curves: list[Curve] = field(default_factory=list)
    levels: dict[str, float] = field(default_factory=dict)

    def over(self, axis: str) -> list[Curve]:
        """The curves of which this axis is known."""
        known = [Curve(one.name, [p for p in one.points if axis in p], one.role) for one in self.curves]
        return [curve for curve in known if curve.points]

    def missing(self) -> list[str]:
        """What is not there yet, in sentences."""
        if not self.curves:
            return ["No validation loss was taken yet."]
        partly = [one.name for one in self.curves if any("flops" not in point for point in one.points)]
        return [f"By FLOPs without {', '.join(partly)}: they are counted when a training ends."] if partly else []


def final_level(folder: Path, prefix: str) -> dict[str, float]:
    """The final loss of the reference in `folder` on the curves' sequences, by its label; empty where unknown."""
    judged = read_judged(folder / "evaluation.json")
    return {} if judged is None else {f"{prefix}reference, final": judged.curve_loss}


def arm_curve(folder: Path, runs: Sequence[SeedSummary]) -> Points:
    """The validation losses of an arm, means over its seeds, with what was spent until then.

    Each point has steps, tokens, flops and val_loss. Earlier stages count: a stage begins where the one before ended.
    Only points that every seed has are in it.
    """
    seeds = [
        dict(_points([(folder / run.folder / stage.folder, stage.given()) for stage in run.stages])) for run in runs
    ]
    common = [at for at in seeds[0] if all(at in points for points in seeds)]
    return [seeds[0][at] | {"val_loss": sum(points[at]["val_loss"] for points in seeds) / len(seeds)} for at in common]


def reference_curve(folder: Path, reference: ReferenceSummary) -> Points:
    """The same of a reference that was trained for the comparison; empty for others."""
    if reference.steps is None:
        return []
    return [point for _, point in _points([(folder / (reference.folder or "."), reference.given())])]


def _points(stages: Sequence[tuple[Path, dict[str, Any]]]) -> Iterator[tuple[tuple[int, int], dict[str, float]]]:
    """(number of the stage, step) and point of each validation loss; `stages` have their folder and their cost."""
    spent = dict.fromkeys(AXES, 0.0)
    for number, (folder, stage) in enumerate(stages):
        for record in read_metrics(folder / "metrics.jsonl"):
            if "val_loss" in record:
                share = record["step"] / stage["steps"]
                at = {axis: spent[axis] + share * stage[axis] for axis in AXES}
                yield (number, record["step"]), {**at, "val_loss": record["val_loss"]}
        for axis in AXES:
            spent[axis] += stage[axis]


def tokens_to_reach(curve: Points, loss: float) -> float | None:
    """Tokens after which a curve is first at `loss` or below, on the straight line between two points; None: never."""
    before: dict[str, float] | None = None
    for point in curve:
        if point["val_loss"] <= loss:
            if before is None:
                return point["tokens"]
            share = (before["val_loss"] - loss) / (before["val_loss"] - point["val_loss"])
            return before["tokens"] + share * (point["tokens"] - before["tokens"])
        before = point
    return None


def noise(curve: Points) -> float:
    """The standard deviation of a point about a smooth curve, from the second differences of neighbouring points.

    The median of their sizes is taken, so that a steep beginning does not count. 0 for fewer than five points.
    """
    losses = [point["val_loss"] for point in curve]
    if len(losses) < 5:
        return 0.0
    bends = [abs(a - 2 * b + c) for a, b, c in zip(losses, losses[1:], losses[2:], strict=False)]
    found = statistics.median(bends) / statistics.NormalDist().inv_cdf(0.75) / math.sqrt(6)
    return found if found > _ROUNDING else 0.0


@dataclass(frozen=True)
class SpeedUp:
    """How much sooner a training has the final loss of another one: `middle`, and what the noise allows at least and at
    most. None in `middle` and as the highest: from the start. None as the lowest: it may not have reached it.
    """

    middle: float | None
    range: tuple[float | None, float | None]


def speed_up(own: Points, other: Points) -> SpeedUp:
    """The tokens of another training over those after which this one has its final loss."""
    goal, doubt = other[-1], math.hypot(noise(own), noise(other))
    low, middle, high = (tokens_to_reach(own, goal["val_loss"] + shift) for shift in (-doubt, 0, doubt))

    def times(tokens: float | None) -> float | None:
        return goal["tokens"] / tokens if tokens else None

    if middle is None:  # the curves' sequences and the whole text disagree on which of the two is ahead
        middle = own[-1]["tokens"]
    return SpeedUp(times(middle), (times(low), times(high)))
