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
    score_figures,
    scoring,
    with_averages,
)
from inheritune.experiment.context import RunContext
from inheritune.experiment.setup import Setup
from inheritune.harness import version
from inheritune.recipe import Recipe, Reference
from inheritune.results import EvaluatedModel, EvaluatedText, EvaluationResult, TaskScore
from inheritune.runlog import read_mapping, write_json

TASKS_FILE = "tasks.json"
_PLACE = "evaluate.tasks"


def check_recipe_tasks(recipe: Recipe) -> None:
    """Raise InputError for tasks that nobody knows, or whose data cannot be had: before anything is computed."""
    spec = recipe.evaluate
    if spec.tasks:
        entries = check_names(spec.tasks, _PLACE, folder=spec.tasks_folder, trusted=spec.trust_task_files)
        open_tasks(entries, _PLACE, spec.tasks_folder)


def judge_tasks(recipe: Recipe, folder: Path, setup: Setup, result: str) -> None:
    """Write tasks.json for the reference and the model `result` (its place in the run's folder), where tasks are asked
    for. What has been found before (tasks/MODEL/*.json) is not made again.
    """
    if not recipe.evaluate.tasks:
        return
    stage, runtime = _Stage(recipe, folder, setup), setup.runtime
    target = Reference(path=str(folder / result), trust_remote_code=recipe.reference.trust_remote_code)
    places = {"reference": setup.model, "target": target}
    missing = runtime.on_rank0(lambda: {side: stage.missing(side) for side in places})
    if any(missing.values()):
        opened: list[Task] = []  # on the first process alone, which asks the questions
        named = [entry for entry in stage.entries if any(entry.name in names for names in missing.values())]
        runtime.on_rank0(lambda: opened.extend(open_tasks(named, _PLACE, recipe.evaluate.tasks_folder)))
        prepared = setup.prepare()
        context = setup.context(prepared, folder.resolve().name)
        for side, place in places.items():
            if missing[side]:
                stage.judge(side, place, [task for task in opened if task.entry.name in missing[side]], context)
    paths = {"reference": recipe.reference.path or "reference/model", "target": result}
    runtime.on_rank0(lambda: stage.write(paths))


class _Stage:
    """The figures of each model and task, each in a file of its own."""

    def __init__(self, recipe: Recipe, folder: Path, setup: Setup) -> None:
        self.recipe, self.folder, self.setup = recipe, folder, setup
        self.entries = expand(recipe.evaluate.tasks, _PLACE)

    def missing(self, side: str) -> list[str]:
        """The tasks of which there are no figures by the harness's version of now."""
        files = {entry.name: self._file(side, entry) for entry in self.entries}

        def is_known(file: Path) -> bool:
            return file.exists() and bool(read_mapping(file, "harness", "tasks")["harness"] == version())

        return [name for name, file in files.items() if not is_known(file)]

    def judge(self, side: str, place: Reference, tasks: Sequence[Task], context: RunContext) -> None:
        """Loss and bits per byte of a model on the run's validation text, as the run judges it, then its tasks."""
        runtime, settings, say = context.runtime, context.training, context.terminal.say
        say(f"{side}: loading for tasks")
        model = in_dtype(load_model(place), "float32")
        reading = read_tokens(context.validation_sequences, context.tokenizer)
        with scoring(
            model,
            runtime,
            context.packing,
            sequence_length=settings.sequence_length,
            precision=settings.precision,
            parallel=context.parallel,
        ) as losses_of:
            judged = score(reading, losses_of, runtime, settings.micro_batch_sequences)
        size = {"parameters": parameter_count(model), "layers": layer_count(model.config)}
        text = {"sequences": reading.sequences.count, "tokens": judged.tokens, "bytes": reading.bytes}

        def ask() -> None:
            write_json(self._model_file(side), {**size, **score_figures(judged), "text": text})
            half = runtime.resolve_precision(settings.precision) != "float32"
            lm = on_harness(
                model.to(runtime.device), context.tokenizer, settings.micro_batch_sequences, half=half
            )  # fmt: skip
            for number, task in enumerate(tasks, 1):
                say(f"{side}: {task.entry.name} ({number} of {len(tasks)} tasks)")
                scores = {name: one.model_dump() for name, one in judge_task(task, lm, None).items()}
                write_json(self._file(side, task.entry), {"harness": version(), "tasks": scores})

        runtime.on_rank0(ask)

    def write(self, paths: dict[str, str]) -> None:
        """tasks.json."""
        models = []
        for side, path in paths.items():
            model = read_mapping(self._model_file(side), "text", "layers")
            scores: dict[str, TaskScore] = {}
            for entry in self.entries:
                tasks = read_mapping(self._file(side, entry), "tasks")["tasks"]
                scores |= {name: TaskScore.model_validate(score) for name, score in tasks.items()}
            models.append(EvaluatedModel.model_validate(
                {**model, "name": side, "path": path, "tasks": with_averages(scores)}
            ))  # fmt: skip
        spec, length = self.recipe.evaluate, self.recipe.train.sequence_length
        EvaluationResult(
            text=EvaluatedText(source="data (validation)", sequence_length=length, **model["text"]),
            harness=harness_facts(spec.tasks, self.entries, None, spec.tasks_folder),
            models=models,
            published=[],
        ).write(self.folder / TASKS_FILE)

    def _model_file(self, side: str) -> Path:
        return self.folder / "tasks" / side / "model.json"

    def _file(self, side: str, entry: Entry) -> Path:
        """Named by all that is asked for, so that another metric or number of shots is another file."""
        readable = re.sub(r"[^A-Za-z0-9_.-]", "_", entry.name)[-60:]
        return self.folder / "tasks" / side / f"{readable}-{hashlib.sha256(repr(entry).encode()).hexdigest()[:8]}.json"
