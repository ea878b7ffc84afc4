"""Tasks of lm-evaluation-harness on a model in memory, through the harness's own functions."""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inheritune import runtime as rt
from inheritune.errors import InputError
from inheritune.evaluation.groups import GROUPS, Entry, expand
from inheritune.evaluation.statistics import ratio
from inheritune.harness import check_tasks, load_task, silenced
from inheritune.report import ONE_START
from inheritune.results import TaskScore

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_ROLLING = "loglikelihood_rolling"
_SHORTEST_PASSAGE = 40  # characters: shorter fields that questions share are labels


@dataclass(frozen=True)
class Task:
    """A task, or the tasks of a group, with their data, as the harness's manager returns them."""

    entry: Entry
    parts: dict[str, Any]


def check_names(names: Sequence[str], place: str, *, folder: Path | None, trusted: bool) -> tuple[Entry, ...]:
    """The tasks that the names ask for; reads no data. Raises InputError as `expand` and `check_tasks` do."""
    entries = expand(names, place)
    check_tasks([entry.name for entry in entries], place, trusted, folder, GROUPS)
    return entries


def open_tasks(entries: Iterable[Entry], place: str, folder: Path | None) -> list[Task]:
    """The tasks with their data, read before a model is loaded. Raises InputError for data that cannot be had."""
    return [Task(entry, load_task(entry.name, place, folder)) for entry in entries]


def on_harness(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", micro_batch: int, half: bool = False
) -> Any:
    """A model on its device for the harness; `half`: with products in bfloat16 (autocast)."""
    with silenced():
        from lm_eval.models.huggingface import HFLM

        return HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=micro_batch,
            mixed_precision_dtype="bfloat16" if half else None,
        )  # fmt: skip


def judge_task(task: Task, lm: Any, limit: int | None) -> dict[str, TaskScore]:
    """The scores of a task by its name.

    A task without a chosen metric has all of them, the first one under the task's name and the others as NAME:METRIC.
    A group without a mean over its tasks has the scores of each task. `limit` is the most questions of each task.
    Standard errors are the harness's, except that questions on one passage are taken together (`statistics.ratio`).
    Raises InputError where the task's own templates or data fail.

    `HFLM.loglikelihood_rolling` (0.4.13) puts a start token before the text's tokens, which may begin with the
    tokenizer's own. Then the model sees two, and the second one counts as if it were text. The scores of such tasks
    without the tokenizer's special tokens follow, as NAME:METRIC (one start token).
    """
    scores = _judged(task, lm, limit)
    rolling = {name: part for name, part in task.parts["tasks"].items() if part.OUTPUT_TYPE == _ROLLING}
    if not rolling or lm.tok_encode("a") == lm.tok_encode("a", add_special_tokens=False):
        return scores
    whole = rolling.keys() == task.parts["tasks"].keys()
    again = task if whole else replace(task, parts={**task.parts, "tasks": rolling, "groups": {}})
    encode = lm.tok_encode
    lm.tok_encode = partial(encode, add_special_tokens=False)
    try:
        corrected = _judged(again, lm, limit)
    finally:
        lm.tok_encode = encode
    return scores | {
        f"{name.partition(':')[0]}:{one.metric}{ONE_START}": one.model_copy(update={"metric": one.metric + ONE_START})
        for name, one in corrected.items()
    }


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
        result = parts[part] | _errors_by_passage(parts[part], outcome["samples"].get(part, []))
        scores |= _scores(part, result, outcome["n-shot"].get(part, 0), task.entry.metric)
    return scores


def _evaluate(task: Task, lm: Any, limit: int | None) -> dict[str, Any]:
    """Do what the harness's command line does for this task, with the same seeds."""
    from lm_eval import evaluator

    random.seed(0)
    np.random.seed(1234)
    torch.manual_seed(1234)
    for part in task.parts["tasks"].values():
        if task.entry.shots is not None:
            if task.entry.shots and part.get_config("num_fewshot") == 0:
                raise ValueError("its file sets num_fewshot to 0")
            part.set_config(key="num_fewshot", value=task.entry.shots)
        elif part.get_config("num_fewshot") is None:
            part.set_config(key="num_fewshot", value=0)
        part.set_fewshot_seed(seed=1234)
    outcome: dict[str, Any] = evaluator.evaluate(lm=lm, task_dict=task.parts, limit=limit, log_samples=True)
    return outcome


def _errors_by_passage(result: dict[str, Any], samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The errors of a task's metrics, by the harness's keys, where several questions are on one passage.

    Only of metrics that are means over questions; the harness's bootstrap of others has no clusters.
    """
    passages = _passages([sample["doc"] for sample in samples])
    if passages is None:
        return {}
    errors = {}
    for key, mean in result.items():
        metric, comma, kind = key.partition(",")
        values = [sample.get(metric) for sample in samples if sample.get("filter", "none") == kind]
        if not comma or len(values) != len(passages) or not all(isinstance(one, int | float) for one in values):
            continue
        sums, counts = dict.fromkeys(passages, 0.0), Counter(passages)
        for passage, value in zip(passages, values, strict=True):
            sums[passage] += float(value or 0)
        of = ratio(list(sums.values()), [counts[passage] for passage in sums])
        if of.error is not None and math.isclose(of.value, mean, abs_tol=1e-9):
            errors[f"{metric}_stderr,{kind}"] = of.error
    return errors


def _passages(documents: Sequence[Any]) -> list[str] | None:
    """The passage of each question: the longest text field that several share; None where none does."""
    if not documents or not all(isinstance(document, dict) for document in documents):
        return None
    found: list[str] | None = None
    longest: float = _SHORTEST_PASSAGE
    for name, first in documents[0].items():
        texts = [document.get(name) for document in documents]
        if isinstance(first, str) and all(isinstance(text, str) for text in texts):
            length = math.fsum(map(len, texts)) / len(texts)
            if length >= longest and 1 < len(set(texts)) < len(texts):
                found, longest = texts, length
    return found


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
