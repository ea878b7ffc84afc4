"""How good the forecasts of losses are, on the curves of trainings that are done.

    python benchmarks/forecast.py FOLDER [FOLDER ...]

Every training below the folders counts that has a metrics.jsonl and, beside it, a training.json. Its first 25, 50 and
75 % forecast its final loss. The columns have the absolute error in nats, median and 90th percentile, of the forecast,
of the last loss so far, and of a straight line over the logarithm of the tokens. Then how often the 80 % interval had
the final loss, and how often it had when its width was fitted to the other folders only (a folder: one that is named).

The second table is on trainings of one comparison that differ in their length alone: the whole curve of the shorter one
forecasts the final loss of the longer one. Beside it the error of the shorter one's own final loss.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from inheritune.report.forecast import LONGEST, WIDENED, forecast, rates_of
from inheritune.runlog import read_metrics

SHARES = (0.25, 0.5, 0.75)
INSIDE = 0.8


@dataclass(frozen=True)
class Training:
    """A training that is done; `like` is the same for those that differ in their length alone."""

    group: str
    folder: Path
    losses: list[tuple[int, float]]
    rates: list[float]
    like: str | None


@dataclass
class Row:
    """Errors of several forecasts, a place for each; `widths` are what the half width would have to be, in its own."""

    group: list[str] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    straight: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    halves: list[float] = field(default_factory=list)


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
            found.append(Training(str(group), file.parent, losses, rates, _like(file.parent / "request.json")))
    return found


def _like(request: Path) -> str | None:
    if not request.is_file():
        return None
    tree: dict[str, Any] = json.loads(request.read_text())
    tree.get("train", {}).pop("length", None)
    return json.dumps(tree, sort_keys=True)


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


def held(row: Row, fitted: dict[str, float]) -> str:
    """How often the intervals hold, as they are and with the widths that are fitted without a curve's own folder."""
    shipped = np.mean([width <= WIDENED for width in row.widths])
    apart = [width <= fitted[group] for group, width in zip(row.group, row.widths, strict=True) if group in fitted]
    return f"{shipped:.0%} | {f'{np.mean(apart):.0%}' if apart else ''}"


def cells(errors: list[float]) -> str:
    sizes = np.abs(errors)
    return f"{np.median(sizes):.4f}, {np.quantile(sizes, 0.9):.4f}"


def show(title: str, rows: dict[str, Row], fitted: dict[str, float]) -> None:
    columns = (
        title, "forecasts", "error", "of the last loss", "of a straight line", "half width", "interval held",
        "width fitted apart",
    )  # fmt: skip
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for name, row in rows.items():
        if row.own:
            errors = " | ".join(cells(one) for one in (row.own, row.last, row.straight))
            half = WIDENED * np.median(row.halves)
            print(f"| {name} | {len(row.own)} | {errors} | {half:.4f} | {held(row, fitted)} |")


def joined(rows: list[Row]) -> Row:
    total = Row()
    for row in rows:
        for name, values in vars(row).items():
            getattr(total, name).extend(values)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    trainings = [one for folder in parser.parse_args().folders for one in trainings_in(folder)]
    by_share: dict[float, Row] = {share: Row() for share in SHARES}
    by_group: dict[str, Row] = defaultdict(Row)
    without = 0
    for training in trainings:
        for share in SHARES:
            losses = [one for one in training.losses if one[0] <= share * len(training.rates)]
            one = Row()
            if not losses or not add(one, training, losses, 1.0, training.losses[-1][1]):
                without += 1
                continue
            by_share[share] = joined([by_share[share], one])
            by_group[training.group] = joined([by_group[training.group], one])
    total = joined(list(by_share.values()))
    groups = sorted(set(total.group))
    fitted = {}
    for group in groups:
        others = [width for name, width in zip(total.group, total.widths, strict=True) if name != group]
        if others:
            fitted[group] = float(np.quantile(others, INSIDE))
    print(f"{len(trainings)} trainings; {without} times no forecast")
    shares = {f"first {share:.0%}": row for share, row in by_share.items()}
    show("of a curve", shares | {f"below {name}": by_group[name] for name in groups} | {"all": total}, fitted)
    if total.widths:
        print(f"\nwidth that holds {INSIDE:.0%}: {np.quantile(total.widths, INSIDE):.2f} (WIDENED is {WIDENED:g})")
    longer: dict[str, Row] = defaultdict(Row)
    for short, long in combinations(sorted(trainings, key=lambda one: len(one.rates)), 2):
        times = len(long.rates) / len(short.rates)
        if short.like is not None and short.like == long.like and 1 < times <= LONGEST:
            add(longer[f"{times:.3g} times as long"], short, short.losses, times, long.losses[-1][1])
    show("a training", longer | {"all": joined(list(longer.values()))}, fitted)


if __name__ == "__main__":
    main()
