"""`evaluate`: models on the same text and the same tasks, side by side."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import ready, resolve_dtype, title
from inheritune.errors import InputError
from inheritune.evaluation.groups import GROUPS, HARNESS, Entry, check_published, published_rows
from inheritune.evaluation.measuring import EvaluationSpec, Measure
from inheritune.evaluation.run_folder import EvaluatedRun, open_run
from inheritune.evaluation.tasks import Task, check_names, open_tasks
from inheritune.harness import from_files, version
from inheritune.inheritance import check_free, free_output
from inheritune.recipe import Reference
from inheritune.results import EvaluatedModel, EvaluationResult, Harness
from inheritune.runlog import logger, new_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate(
    models: "str | Path | Reference | PreTrainedModel | Sequence[str | Path | Reference | PreTrainedModel]",
    data: str | Path | None = None, sequence_length: int | None = None, *, text: str | Path | Sequence[str | Path] = (),
    tasks: str | Sequence[str] = (), tasks_folder: str | Path | None = None, trust_task_files: bool = False,
    published: bool = False, chat: bool = False, limit: int | None = None,
    tokenizer: "PreTrainedTokenizerBase | None" = None, device: str = "auto", dtype: str = "auto",
    attention: str | None = None, prefix: str = "auto", micro_batch: int = 8, out: str | Path | None = None,
) -> EvaluationResult:  # fmt: skip
    """Validation loss, perplexity, bits per byte and tasks of one or several decoders.

    docs/evaluating.md has every field. The text is all of `text` (files, folders, patterns, addresses), or the
    validation text of `data` (a folder that `prepare` wrote, or nanoGPT's train.bin and val.bin), in sequences of
    `sequence_length` tokens (default: 1024, or as many as all models have positions for). Records with `messages` are
    judged on the assistant's turns, in each model's chat template; `chat` makes a user's message of other text. A model
    may be a run's folder: then its reference and its result are judged, as in the run where neither text nor data is
    given. `tasks` are names of lm-evaluation-harness, of the groups inheritune-v1 and inheritune-v4, `NAME@5` for five
    shots, and task files, of which `tasks_folder` may hold several; these need `trust_task_files`. `limit`: questions
    of each task. `published` adds the papers' rows. `attention` and `prefix` are as in a recipe's `train` and `data`.
    Models are moved to `device` in `dtype` (auto: float32, on a GPU bfloat16); a loaded one stays as it was. `out` is a
    folder to write evaluation.json to.

    Raises InputError for text that is too short, unknown tasks, data of tasks that cannot be had, sequences longer than
    a model's positions, a model without tokenizer, and when `out` exists.
    """
    paths, names = _as_list(text), [str(name) for name in _as_list(tasks)]
    listed, runs = _listed(_as_list(models))
    spec = EvaluationSpec(data, paths, sequence_length, attention, prefix, micro_batch, limit, chat).of_runs(runs)
    spec.check(bool(names))
    if out is not None:
        check_free(Path(out))
    own = None if tasks_folder is None else Path(tasks_folder)
    runtime = rt.start(device)
    dtype = resolve_dtype(dtype, runtime.device)
    with ExitStack() as held:
        folder = None if out is None else runtime.on_rank0(lambda: held.enter_context(free_output(Path(out))))
        entries: tuple[Entry, ...] = ()
        if names or own is not None or published:
            entries = runtime.on_rank0(lambda: _check(names, own, trust_task_files, published))
        spec = spec.with_length([one for _, one in listed])
        # only the first process asks questions; the others wait for its scores
        opened: list[Task] = []
        runtime.on_rank0(lambda: opened.extend(open_tasks(entries, "--tasks", own)))
        measure = Measure(spec, runtime, entries, opened)

        def judged(name: str, one: Any) -> EvaluatedModel:
            """A function, so that a model is freed before the next one is loaded."""
            logger.info(f"{name}: loading")
            with ready(one, tokenizer, runtime.device, dtype) as (model, its):
                return measure.judge(name, title(one)[1], model, its)

        judged_models = [judged(name, one) for name, one in listed]
        harness = harness_facts(names, entries, limit, own) if entries else None
        rows = published_rows(judged_models[0].tasks, harness.own) if harness and published else []
        result = EvaluationResult(text=measure.text(), harness=harness, models=judged_models, published=rows)
        if folder is not None and runtime.is_rank0:
            with new_folder(folder) as filled:
                result.write(filled / "evaluation.json")
        return result


def harness_facts(names: Sequence[str], entries: Sequence[Entry], limit: int | None, folder: Path | None) -> Harness:
    """What the scores of tasks depend on besides the model."""
    own = from_files([entry.name for entry in entries], folder)
    pinned = HARNESS if any(name in GROUPS for name in names) else None
    return Harness(version=version(), limit=limit, pinned=pinned, own=list(own))


def _check(names: Sequence[str], folder: Path | None, trusted: bool, published: bool) -> tuple[Entry, ...]:
    if not names and folder is not None:
        raise InputError("--tasks-folder", "no task of it is asked for", "name some with --tasks")
    entries = check_names(names, "--tasks", folder=folder, trusted=trusted) if names else ()
    if published:
        own = from_files([entry.name for entry in entries], folder) if entries else ()
        check_published([entry for entry in entries if entry.name not in own], "--published")
    return entries


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _listed(models: Sequence[Any]) -> tuple[list[tuple[str, Any]], list[EvaluatedRun]]:
    """The models with unique names, and the runs. A run's folder becomes its reference and its result."""
    if not models:
        raise InputError("models", "none given", "name one or several")
    listed: list[tuple[str, Any]] = []
    runs: list[EvaluatedRun] = []
    for one in models:
        run = open_run(Path(one)) if isinstance(one, str | Path) else None
        if run is not None:
            runs.append(run)
            name = run.folder.resolve().name
            listed += [(f"{name} reference", run.reference), (f"{name} result", run.result)]
        else:
            listed.append((title(one)[0], one))
    names = [name for name, _ in listed]
    listed = [(title(one)[1] or name if names.count(name) > 1 else name, one) for name, one in listed]
    names = [name for name, _ in listed]
    unique = [(f"{name} ({at})" if names.count(name) > 1 else name, one) for at, (name, one) in enumerate(listed, 1)]
    return unique, runs
