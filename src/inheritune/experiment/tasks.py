"""A run's tasks: its reference and its result on tasks of lm-evaluation-harness, in tasks.json, question by question
the same for both.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from inheritune.arch import in_dtype, layer_count, load_model, parameter_count
from inheritune.evaluation import (
    Entry,
    Task,
    check_names,
    expand,
    harness_facts,
    judge_task,
    on_harness,
    open_tasks,
    read_tokens,
    score,
    scoring,
    with_averages,
)
from inheritune.experiment.context import RunContext
from inheritune.experiment.setup import Setup
from inheritune.harness import version
from inheritune.recipe import Recipe, Reference
from inheritune.results import EvaluatedModel, EvaluatedText, EvaluationResult, TaskScore
from inheritune.runlog import logger, read_mapping, write_json

TASKS_FILE = "tasks.json"
_PLACE = "evaluate.tasks"


def check_recipe_tasks(recipe: Recipe) -> None:
    """Raise InputError for tasks that nobody knows, or whose data cannot be had: before anything is computed."""
    spec = recipe.evaluate
    if spec.tasks:
        entries = check_names(spec.tasks, _PLACE, folder=spec.tasks_folder, trusted=spec.trust_task_files)
        open_tasks(entries, _PLACE, spec.tasks_folder)


def judge_tasks(recipe: Recipe, setup: Setup, result: str) -> None:
    """Write tasks.json for the reference and the model `result` (its place in the run's folder), where tasks are asked
    for. Scores that are there already (tasks/MODEL/*.json) are not computed again.
    """
    spec, runtime, folder = recipe.evaluate, setup.runtime, setup.folder
    if not spec.tasks:
        return
    entries = expand(spec.tasks, _PLACE)
    target = Reference(path=str(folder / result), trust_remote_code=recipe.reference.trust_remote_code)
    models = {"reference": setup.model, "target": target}

    def missing() -> dict[str, list[str]]:
        return {side: [one.name for one in entries if not _is_scored(folder, side, one)] for side in models}

    lacking = runtime.on_rank0(missing)
    if any(lacking.values()):
        opened: list[Task] = []  # on the first process alone, which asks the questions
        named = [entry for entry in entries if any(entry.name in names for names in lacking.values())]
        runtime.on_rank0(lambda: opened.extend(open_tasks(named, _PLACE, spec.tasks_folder)))
        context = setup.context()
        for side, model in models.items():
            if lacking[side]:
                _judge(folder, side, model, [task for task in opened if task.entry.name in lacking[side]], context)
    paths = {"reference": recipe.reference.path or "reference/model", "target": result}
    runtime.on_rank0(lambda: _write(recipe, folder, entries, paths))


def _is_scored(folder: Path, side: str, entry: Entry) -> bool:
    """Whether there are scores by the harness's version of now."""
    file = _scores_file(folder, side, entry)
    return file.exists() and bool(read_mapping(file, "harness", "tasks")["harness"] == version())


def _judge(folder: Path, side: str, place: Reference, tasks: Sequence[Task], context: RunContext) -> None:
    """Loss and bits per byte of a model on the run's validation text, as the run judges it, then its tasks."""
    runtime, settings = context.runtime, context.training
    logger.info(f"{side}: loading for tasks")
    model = in_dtype(load_model(place), "float32")
    reading = read_tokens(context.validation_sequences, context.tokenizer, context.prepared.validation_origins)
    with scoring(
        model, runtime, context.packing, sequence_length=settings.sequence_length, precision=settings.precision,
        parallel=context.parallel,
    ) as losses_of:  # fmt: skip
        on_text, count = score(reading, losses_of, runtime, settings.micro_batch_sequences)
    size = {"parameters": parameter_count(model), "layers": layer_count(model.config)}
    text = {"sequences": reading.sequences.count, "tokens": count, "bytes": reading.bytes}

    def ask() -> None:
        write_json(_model_file(folder, side), {**size, **on_text, "text": text})
        half = runtime.resolve_precision(settings.precision) != "float32"
        lm = on_harness(model.to(runtime.device), context.tokenizer, settings.micro_batch_sequences, half=half)
        for number, task in enumerate(tasks, 1):
            logger.info(f"{side}: {task.entry.name} ({number} of {len(tasks)} tasks)")
            scores = {name: one.model_dump() for name, one in judge_task(task, lm, None).items()}
            write_json(_scores_file(folder, side, task.entry), {"harness": version(), "tasks": scores})

    runtime.on_rank0(ask)


def _write(recipe: Recipe, folder: Path, entries: Sequence[Entry], paths: dict[str, str]) -> None:
    """tasks.json."""
    models = []
    for side, path in paths.items():
        model = read_mapping(_model_file(folder, side), "text", "layers")
        scores: dict[str, TaskScore] = {}
        for entry in entries:
            tasks = read_mapping(_scores_file(folder, side, entry), "tasks")["tasks"]
            scores |= {name: TaskScore.model_validate(score) for name, score in tasks.items()}
        fields = {**model, "name": side, "path": path, "tasks": with_averages(scores)}
        models.append(EvaluatedModel.model_validate(fields))
    spec, length = recipe.evaluate, recipe.train.sequence_length
    EvaluationResult(
        text=EvaluatedText(source="data (validation)", sequence_length=length, **model["text"]),
        harness=harness_facts(spec.tasks, entries, None, spec.tasks_folder),
        models=models,
        published=[],
    ).write(folder / TASKS_FILE)


def _model_file(folder: Path, side: str) -> Path:
    return folder / "tasks" / side / "model.json"


def _scores_file(folder: Path, side: str, entry: Entry) -> Path:
    """Named by all that is asked for, so that another metric or number of shots is another file."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", entry.name)[-60:]
    return folder / "tasks" / side / f"{readable}-{hashlib.sha256(repr(entry).encode()).hexdigest()[:8]}.json"
