"""The arms of a comparison: their curves on one axis, read from metrics files, and what can be read off them."""

from pathlib import Path
from typing import Any

from inheritune.report.curves import AXES, Points
from inheritune.runlog import read_metrics


def arm_curve(folder: Path, arm: dict[str, Any]) -> Points:
    """The validation losses of an arm on the way, means over its seeds, by what was spent until then.

    Each point has steps, tokens, flops and val_loss. Earlier stages count: a stage goes on where the one before ended.
    Only points that every seed has are in it.
    """
    runs = [_run_curve(folder, run) for run in arm["runs"]]
    common = [at for at in runs[0] if all(at in run for run in runs)]
    found = []
    for at in common:
        point = dict(runs[0][at])
        point["val_loss"] = sum(run[at]["val_loss"] for run in runs) / len(runs)
        found.append(point)
    return found


def _run_curve(folder: Path, run: dict[str, Any]) -> dict[tuple[int, int], dict[str, float]]:
    """The points of one seed, by stage and step."""
    points: dict[tuple[int, int], dict[str, float]] = {}
    spent = dict.fromkeys(AXES, 0.0)
    for number, stage in enumerate(run["stages"]):
        for record in read_metrics(folder / run["folder"] / stage["folder"] / "metrics.jsonl"):
            if "val_loss" in record:
                share = record["step"] / stage["steps"]
                at = {axis: spent[axis] + share * stage[axis] for axis in AXES}
                points[number, record["step"]] = {**at, "val_loss": record["val_loss"]}
        for axis in AXES:
            spent[axis] += stage[axis]
    return points


def reference_curve(folder: Path, reference: dict[str, Any]) -> Points:
    """The same of a reference that was trained for the comparison; empty for others."""
    if "steps" not in reference:
        return []
    stage = {"folder": ".", **{axis: reference[axis] for axis in AXES}}
    return list(_run_curve(folder, {"folder": reference["folder"], "stages": [stage]}).values())


def tokens_to_reach(curve: Points, loss: float) -> float | None:
    """Tokens after which a curve is first at `loss` or below, on the straight line between two points; None: never."""
    before: dict[str, float] | None = None
    for point in curve:
        if point["val_loss"] <= loss:
            if before is None or before["val_loss"] <= point["val_loss"]:
                return point["tokens"]
            share = (before["val_loss"] - loss) / (before["val_loss"] - point["val_loss"])
            return before["tokens"] + share * (point["tokens"] - before["tokens"])
        before = point
    return None
