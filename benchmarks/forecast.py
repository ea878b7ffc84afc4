"""How good the forecasts of losses are, on the curves of trainings that are done.

    python benchmarks/forecast.py FOLDER [FOLDER ...]

Every training below the folders counts that has a metrics.jsonl and, beside it, a training.json. Its first 25, 50 and
75 % forecast its final loss. The columns have the absolute error in nats, median and 90th percentile, of the forecast,
of the last loss so far, and of a straight line over the logarithm of the tokens. Then the median half width of the 80 %
intervals, how often they had the final loss, and how often they would have had it with the width that fits all folders
but the training's own (folders as they are named in the command).

The second table is on trainings of one comparison that differ in their length alone: the whole curve of the shorter one
forecasts the final loss of the longer one. Beside it the error of the shorter one's own final loss.
"""

import argparse
import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from inheritune.report.forecast import LONGEST, WIDENED, WIDENED_LONGER, forecast, rates_of
from inheritune.runlog import read_metrics

SHARES = (0.25, 0.5, 0.75)
INSIDE = 0.8


@dataclass(frozen=True)
class Training:
    """A training that is done; `like` is the same for those that differ in their length alone, None if unknown."""

    group: str
    losses: list[tuple[int, float]]
    rates: list[float]
    like: str | None
    start: str
    """inherited, random or other (a reference, or not known)."""


@dataclass
class Row:
    """Errors of several forecasts, a place for each; `widths` are what the half width would have to be, in its own."""

    group: list[str] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    straight: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    halves: list[float] = field(default_factory=list)

    def extend(self, other: "Row") -> None:
        for name, values in vars(other).items():
            getattr(self, name).extend(values)


def trainings_in(group: Path) -> list[Training]:
    """The trainings below a folder that are done and have a rate for every step."""
    found, seen = [], set()
    for file in sorted(group.rglob("metrics.jsonl")):
        done = file.parent / "training.json"
        records = read_metrics(file)
        rates = rates_of(records, is_done=True)
        losses = [(one["step"], one["val_loss"]) for one in records if "val_loss" in one and one["step"]]
        if rates is None or not done.is_file() or tuple(losses) in seen:
            continue
        if losses and losses[-1][0] == len(rates) == json.loads(done.read_text())["steps"]:
            seen.add(tuple(losses))
            found.append(Training(str(group), losses, rates, *_request(file.parent / "request.json")))
    return found


def _request(file: Path) -> tuple[str | None, str]:
    """What an arm was asked for, without its length, and whether it inherited blocks."""
    if not file.is_file():
        return None, "other"
    tree: dict[str, Any] = json.loads(file.read_text())
    tree.get("train", {}).pop("length", None)
    return json.dumps(tree, sort_keys=True), "random" if tree["start"].get("submodules") == "none" else "inherited"


def straight_line(losses: list[tuple[int, float]], steps: int) -> float:
    """The loss at the end on a straight line over the logarithm of the step, without the first tenth so far."""
    kept = [(step, loss) for step, loss in losses if step > losses[-1][0] / 10]
    slope, level = np.polyfit(np.log([step for step, _ in kept]), [loss for _, loss in kept], 1)
    return float(level + slope * np.log(steps))


def add(row: Row, training: Training, losses: list[tuple[int, float]], times: float, truth: float) -> bool:
    """Add the errors of a forecast; False where there is none."""
    made = forecast(losses, training.rates)
    if made is None:
        return False
    interval = made.final(times, widened=1.0)
    row.group.append(training.group)
    row.own.append(interval.middle - truth)
    row.last.append(losses[-1][1] - truth)
    row.straight.append(straight_line(losses, round(times * len(training.rates))) - truth)
    row.halves.append(interval.high - interval.middle)
    row.widths.append(abs(row.own[-1]) / row.halves[-1])
    return True


def cells(errors: list[float]) -> str:
    sizes = np.abs(errors)
    return f"{np.median(sizes):.4f}, {np.quantile(sizes, 0.9):.4f}"


def show(title: str, rows: dict[str, Row], total: Row, widened: float) -> None:
    """A table; `total` has all that is in its rows, `widened` is what the half widths are multiplied by."""
    columns = (
        title, "forecasts", "error", "of the last loss", "of a straight line", "half width", "interval held",
        "with the width of the other folders",
    )  # fmt: skip
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    fitted = {name: width_of(total, without=name) for name in set(total.group)}
    for name, row in rows.items():
        errors = " | ".join(cells(one) for one in (row.own, row.last, row.straight))
        half = widened * np.median(row.halves)
        apart = [width <= fitted[group] for group, width in zip(row.group, row.widths, strict=True)]
        held = np.mean([width <= widened for width in row.widths])
        print(f"| {name} | {len(row.own)} | {errors} | {half:.4f} | {held:.0%} | {np.mean(apart):.0%} |")
    print(f"\nThe width that holds {INSIDE:.0%}: {width_of(total):.2f}; in use: {widened:g}")


def width_of(row: Row, without: str | None = None) -> float:
    """The width that holds INSIDE of the forecasts, of all or of all without a folder's; not a number for none."""
    widths = [width for group, width in zip(row.group, row.widths, strict=True) if group != without]
    return float(np.quantile(widths, INSIDE)) if widths else math.nan


def joined(rows: dict[str, Row]) -> Row:
    total = Row()
    for row in rows.values():
        total.extend(row)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    trainings = [one for folder in parser.parse_args().folders for one in trainings_in(folder)]
    by_share: dict[str, Row] = defaultdict(Row)
    by_folder: dict[str, Row] = defaultdict(Row)
    by_start: dict[str, Row] = defaultdict(Row)
    without = 0
    for training in trainings:
        for share in SHARES:
            losses = [one for one in training.losses if one[0] <= share * len(training.rates)]
            one = Row()
            if losses and add(one, training, losses, 1.0, training.losses[-1][1]):
                by_share[f"first {share:.0%}"].extend(one)
                by_folder[f"below {training.group}"].extend(one)
                by_start[training.start].extend(one)
            else:
                without += 1
    print(f"{len(trainings)} trainings; {without} times no forecast")
    total = joined(by_share)
    show("of a curve", by_share | by_folder | by_start | {"all": total}, total, WIDENED)
    longer: dict[str, Row] = defaultdict(Row)
    for short, long in combinations(sorted(trainings, key=lambda one: len(one.rates)), 2):
        times = len(long.rates) / len(short.rates)
        if short.like is not None and short.like == long.like and 1 < times <= LONGEST:
            name = f"{times:.3g} times as long, {short.start}"
            add(longer[name], short, short.losses, times, long.losses[-1][1])
    if longer:
        total = joined(longer)
        show("a training", longer | {"all": total}, total, WIDENED_LONGER)


if __name__ == "__main__":
    main()
