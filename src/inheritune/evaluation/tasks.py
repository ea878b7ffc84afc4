"""Tasks of lm-evaluation-harness on a model in memory, through the harness's own functions."""

import contextlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inheritune import runtime as rt
from inheritune.errors import InputError
from inheritune.evaluation.groups import GROUPS, Entry, expand
from inheritune.harness import check_tasks, load_task, silenced
from inheritune.report import ONE_START
from inheritune.results import TaskScore

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROLLING = "loglikelihood_rolling"
_SEEDS = (0, 1234, 1234, 1234)  # of random, numpy, torch, the drawing of shots: those of the harness's command line


@dataclass(frozen=True)
class Task:
    """A task, or a group's tasks, with their data: what the harness's manager gives."""

    entry: Entry
    parts: dict[str, Any]


def check_names(names: Sequence[str], place: str, *, folder: Path | None, trusted: bool) -> tuple[Entry, ...]:
    """What the names ask for; reads no data. Raises InputError as `expand` and `check_tasks` do."""
    entries = expand(names, place)
    check_tasks([entry.name for entry in entries], place, trusted, folder, GROUPS)
    return entries


def open_tasks(entries: Iterable[Entry], place: str, folder: Path | None) -> list[Task]:
    """The tasks with their data, so that what cannot be had is known before a model is loaded.

    Raises InputError for data that cannot be had, and where an entry's metric is not one of its task's.
    """
    return [Task(entry, load_task(entry.name, place, folder)) for entry in entries]


def on_harness(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", micro_batch: int, half: bool = False
) -> Any:
    """A model on its device as the harness knows models; `half`: its products in bfloat16 (autocast)."""
    with silenced():
        from lm_eval.models.huggingface import HFLM

        return HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=micro_batch,
            mixed_precision_dtype="bfloat16" if half else None,
        )  # fmt: skip


def judge_task(task: Task, lm: Any, limit: int | None) -> dict[str, TaskScore]:
    """The scores of a task by its name.

    A task of which no metric was asked for has all of them, its first one under its own name and the others as
    NAME:METRIC. Of a group that has no mean over its tasks, those of each. With `limit` only so many of each task's
    questions are asked. Raises InputError where the task's own templates or data fail.

    Where the harness counts the tokenizer's special tokens as text (see `_with_one_start`), the figures without them
    follow, as NAME:METRIC (one start token).
    """
    scores = _judged(task, lm, limit)
    rolling = {name: part for name, part in task.parts["tasks"].items() if part.OUTPUT_TYPE == _ROLLING}
    if not rolling or lm.tok_encode("a") == lm.tok_encode("a", add_special_tokens=False):
        return scores
    whole = rolling.keys() == task.parts["tasks"].keys()
    again = task if whole else replace(task, parts={**task.parts, "tasks": rolling, "groups": {}})
    with _with_one_start(lm):
        corrected = _judged(again, lm, limit)
    return scores | {
        f"{name.partition(':')[0]}:{one.metric}{ONE_START}": one.model_copy(update={"metric": one.metric + ONE_START})
        for name, one in corrected.items()
    }


@contextlib.contextmanager
def _with_one_start(lm: Any) -> Iterator[None]:
    """Have the harness read texts without the special tokens that the tokenizer puts around them.

    `HFLM.loglikelihood_rolling` (0.4.13) puts a start token before the text's tokens, which begin with the tokenizer's
    own. So the model sees two, and the chance of the second one counts as if it were text.
    """
    encode = lm.tok_encode
    lm.tok_encode = partial(encode, add_special_tokens=False)
    try:
        yield
    finally:
        lm.tok_encode = encode


def _judged(task: Task, lm: Any, limit: int | None) -> dict[str, TaskScore]:
    before = rt.random_state(lm.device.type), random.getstate(), np.random.get_state()
    try:
        with silenced():
            outcome = _evaluate(task, lm, limit)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        line = (str(error).splitlines() or [""])[0]
        raise InputError(
            task.entry.name, f"the task fails ({type(error).__name__}: {line})", "try it with `lm-eval run`"
        ) from None
    finally:
        rt.restore_random_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])
    name = task.entry.name
    parts = outcome["results"]
    kept = [name] if name in outcome.get("groups", {}) else [part for part in parts if part in task.parts["tasks"]]
    scores: dict[str, TaskScore] = {}
    for part in kept:
        scores |= _scores(part, parts[part], outcome["n-shot"].get(part, 0), task.entry.metric)
    return scores


def _evaluate(task: Task, lm: Any, limit: int | None) -> dict[str, Any]:
    """What the harness's command line does with the name of this task, its seeds included."""
    from lm_eval import evaluator

    seeds = _SEEDS
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    torch.manual_seed(seeds[2])
    for part in task.parts["tasks"].values():
        if task.entry.shots is not None:
            if task.entry.shots and part.get_config("num_fewshot") == 0:
                raise ValueError("its file sets num_fewshot to 0")
            part.set_config(key="num_fewshot", value=task.entry.shots)
        elif part.get_config("num_fewshot") is None:
            part.set_config(key="num_fewshot", value=0)
        part.set_fewshot_seed(seed=seeds[3])
    outcome: dict[str, Any] = evaluator.evaluate(lm=lm, task_dict=task.parts, limit=limit, log_samples=False)
    return outcome


def _scores(name: str, result: dict[str, Any], shots: int, metric: str | None) -> dict[str, TaskScore]:
    scores: dict[str, TaskScore] = {}
    for key, value in result.items():
        measure, comma, kind = key.partition(",")
        if not comma or measure.endswith("_stderr"):
            continue
        if metric is not None and (measure, kind) != (metric, "none"):
            continue
        error = result.get(f"{measure}_stderr,{kind}")
        words = measure if kind == "none" else f"{measure} ({kind})"
        scores[f"{name}:{words}" if scores else name] = TaskScore(
            metric=words, shots=shots, value=value, se=error if isinstance(error, int | float) else None
        )
    if not scores:
        raise InputError(name, f"has no metric {metric}", "see the task's metric_list")
    return scores
