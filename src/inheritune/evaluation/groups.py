"""Tasks by name: which tasks a name asks for, the papers' groups with metrics and shots, their published rows."""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from inheritune.errors import InputError
from inheritune.results import PublishedRow, TaskScore

HARNESS = "0.4.13"
"""The version of lm-eval that the groups are pinned to: its prompts and metrics are the ones that the names mean."""


@dataclass(frozen=True)
class Entry:
    """A task or a group of the harness. Without a metric: all of its metrics. Without shots: its own number of them."""

    name: str
    metric: str | None = None
    shots: int | None = None


# The papers name no metrics. wsc is SuperGLUE's: the published figures are multiples of 1/104, its number of questions.
# LogiQA's metric and TruthfulQA's variant: docs/evaluating.md.
GROUPS: dict[str, tuple[Entry, ...]] = {
    "inheritune-v1": (
        Entry("wsc", "acc", 0),
        Entry("piqa", "acc", 0),
        Entry("boolq", "acc", 0),
        Entry("winogrande", "acc", 0),
        Entry("logiqa", "acc_norm", 0),
        Entry("mmlu", "acc", 5),
        Entry("wnli", "acc", 0),
        Entry("qnli", "acc", 0),
        Entry("mnli", "acc", 0),
        Entry("truthfulqa_mc2", "acc", 0),
    ),
    "inheritune-v4": (
        Entry("arc_easy", "acc", 0),
        Entry("piqa", "acc", 0),
        Entry("sciq", "acc", 0),
        Entry("hellaswag", "acc_norm", 0),
        Entry("lambada_openai", "acc", 0),
        Entry("winogrande", "acc", 0),
        Entry("boolq", "acc", 0),
        Entry("wikitext", "word_perplexity", 0),
    ),
}
AVERAGES: dict[str, tuple[str, ...]] = {
    "inheritune-v4 average": ("arc_easy", "piqa", "sciq", "hellaswag", "lambada_openai"),
}
"""Means over tasks of a group, as the papers give them."""


def expand(names: Iterable[str], place: str) -> tuple[Entry, ...]:
    """What the names ask for: groups of ours, tasks and groups of the harness, files; `NAME@5` with five shots.

    Raises InputError where one task is asked for in two ways.
    """
    entries: dict[str, Entry] = {}
    for name in names:
        for entry in GROUPS.get(name) or [_parse(name)]:
            if entries.setdefault(entry.name, entry) != entry:
                what = f"{entry.name} is asked for twice, as {_words(entries[entry.name])} and as {_words(entry)}"
                raise InputError(place, what, "name it once")
    return tuple(entries.values())


def _parse(name: str) -> Entry:
    match = re.fullmatch(r"(.+)@(\d{1,4})", name)
    return Entry(match[1], shots=int(match[2])) if match else Entry(name)


def _words(entry: Entry) -> str:
    shots = "its own shots" if entry.shots is None else f"{entry.shots} shots"
    return f"{entry.metric or 'all its metrics'} with {shots}"


def with_averages(tasks: Mapping[str, TaskScore]) -> dict[str, TaskScore]:
    """The scores of tasks, and after them the averages of groups all of whose tasks are there."""
    scores = dict(tasks)
    for name, parts in AVERAGES.items():
        pinned = {entry.name: (entry.metric, entry.shots) for entry in GROUPS[name.split()[0]]}
        if not all(part in tasks and (tasks[part].metric, tasks[part].shots) == pinned[part] for part in parts):
            continue
        errors = [error for part in parts if (error := tasks[part].se) is not None]
        scores[name] = TaskScore(
            metric=f"mean of {len(parts)} tasks",
            shots=0,
            value=math.fsum(tasks[part].value for part in parts) / len(parts),
            se=math.sqrt(math.fsum(one**2 for one in errors)) / len(parts) if len(errors) == len(parts) else None,
        )
    return scores


def check_published(entries: Sequence[Entry], place: str) -> None:
    """Raise InputError where no published figure can be of the metric and shots of one of the entries."""
    names = {entry.name for entry in entries}
    averaged = any(names.issuperset(parts) for parts in AVERAGES.values())
    if not averaged and not any(
        entry.name == name and entry.metric in (None, score.metric) and entry.shots in (None, score.shots)
        for row in _published()
        for name, score in row.tasks.items()
        for entry in entries
    ):
        what = "none of these tasks has a published figure of its metric and shots"
        raise InputError(place, what, f"ask for {' or '.join(GROUPS)}")


def published_rows(tasks: Mapping[str, TaskScore], own: Iterable[str]) -> list[PublishedRow]:
    """The published rows of tasks that were measured with the same metric and shots, and are not the user's `own`."""
    mine = set(own)
    measured = {
        (name, score.metric, score.shots) for name, score in tasks.items() if not mine & {name, *AVERAGES.get(name, ())}
    }
    rows = []
    for row in _published():
        kept = {name: score for name, score in row.tasks.items() if (name, score.metric, score.shots) in measured}
        if kept:
            rows.append(row.model_copy(update={"tasks": kept}))
    return rows


@cache
def _published() -> list[PublishedRow]:
    file = Path(__file__).with_name("published.json")
    return [PublishedRow.model_validate(row) for row in json.loads(file.read_text(encoding="utf-8"))["rows"]]
