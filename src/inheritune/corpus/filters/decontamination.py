"""Decontamination: the n-grams of evaluations as hashes, and datatrove's filter that looks for them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.errors import InputError
from inheritune.harness import check_tasks, data_errors, load_task
from inheritune.limits import BENCHMARK_BYTES, read_text
from inheritune.recipe import Decontaminate
from inheritune.runlog import new_folder

if TYPE_CHECKING:
    from datatrove.pipeline.decont import NGramsDecontFilter

_SUFFIXES = (".jsonl", ".txt")


def check_evaluations(settings: Decontaminate, place: str) -> None:
    """Raise InputError for files that are not there, and for tasks that lm-evaluation-harness does not know."""
    for path in settings.files:
        _list_files(path, f"{place}.files")
    if settings.tasks:
        check_tasks(settings.tasks, f"{place}.tasks", settings.trust_task_files)


def build_index(settings: Decontaminate, folder: Path, place: str) -> None:
    """Write the hashes of all n-grams of the evaluations into `folder`, which appears whole, unless it is there.

    One file of little-endian uint64 for each evaluation, sorted, as datatrove's filter reads them. Raises InputError
    for evaluations that cannot be read, or in which nothing is as long as an n-gram.
    """
    if folder.exists():
        return
    from datatrove.pipeline.decont import NGramsDecontIndexer

    step = contamination_step(settings, folder.parent)
    hashes: dict[str, set[int]] = {}
    for name, text in _texts(settings, place):
        # The indexer's own method on the filter, which has all that it uses: making an indexer needs lighteval.
        hashes.setdefault(name, set()).update(NGramsDecontIndexer.compute_hashes(step, text))
    if not any(hashes.values()):
        raise InputError(
            place,
            f"no text of the evaluations has {settings.n_grams} words, so nothing could be found",
            "lower n_grams, or name all text_keys: question and answer are looked at as one text",
        )
    with new_folder(folder) as partial:
        for name, found in hashes.items():
            values = np.array(sorted(found), dtype=step.config.hash_config.np_descr)
            values.tofile(partial / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.index.hashes")


def contamination_step(settings: Decontaminate, folder: Path) -> "NGramsDecontFilter":
    """The filter of datatrove over the index in `folder`, which it reads with its first document."""
    from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
    from datatrove.utils.hashing import HashConfig

    # datatrove's call of xxhash fails from xxhash 4 on
    config = NGramsDecontConfig(n_grams=settings.n_grams, hash_config=HashConfig(hash_fc="sha1"))
    return NGramsDecontFilter(str(folder), config, language=settings.language)


def _texts(settings: Decontaminate, place: str) -> Iterator[tuple[str, str]]:
    """The name of an evaluation and one of its texts, for all of them."""
    for path in settings.files:
        for file in _list_files(path, f"{place}.files"):
            for text in _read(file, settings.text_keys, place):
                yield file.name, text
    if settings.tasks:
        check_tasks(settings.tasks, f"{place}.tasks", settings.trust_task_files)
        for name in settings.tasks:
            yield from _task_texts(name, f"{place}.tasks")


def _list_files(path: Path, place: str) -> list[Path]:
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        if not found:
            raise InputError(place, f"{path} has no .jsonl or .txt file", "give a folder that has some")
        return found
    if not path.is_file():
        raise InputError(place, f"no such file or folder: {path}", "correct the path")
    if path.suffix not in _SUFFIXES:
        raise InputError(place, f"{path} is neither .jsonl nor .txt", "give files of these kinds")
    return [path]


def _read(file: Path, keys: list[str], place: str) -> Iterator[str]:
    try:
        content = read_text(file, BENCHMARK_BYTES)
    except OSError as error:
        raise InputError(str(file), f"cannot be read ({error.strerror})", "change its permissions") from None
    except UnicodeDecodeError as error:
        raise InputError(str(file), f"not UTF-8 text (byte {error.start})", "convert the file") from None
    if file.suffix == ".txt":
        yield content
        return
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield _record_text(line, keys, f"{file}:{number}", place)


def _record_text(line: str, keys: list[str], where: str, place: str) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(where, f"not a JSON record ({error})", "mend the line") from None
    if not isinstance(record, dict):
        raise InputError(where, "not a JSON record with keys", "mend the line")
    for key in keys:
        if not isinstance(record.get(key), str):
            there = ", ".join(name for name, value in record.items() if isinstance(value, str)) or "none"
            raise InputError(where, f"no text under {key!r}", f"set {place}.text_keys; the keys with text are {there}")
    return "\n".join(record[key] for key in keys)


def _task_texts(name: str, place: str) -> Iterator[tuple[str, str]]:
    """Each question of a task (or of a group's tasks) with each of its right answers."""
    tasks = load_task(name, place)["tasks"]
    with data_errors(name, place):
        for task_name, task in tasks.items():
            for document in task.eval_docs:
                question, answers = _question_and_answers(task, document)
                for answer in answers:
                    yield task_name, f"{question}\n{answer}"


def _question_and_answers(task: Any, document: Any) -> tuple[str, list[str]]:
    """A task may name the question or the answer by its number among the choices."""
    question, answers = task.doc_to_text(document), task.doc_to_target(document)
    answers = answers if isinstance(answers, list | tuple) else [answers]
    if any(isinstance(value, int) for value in (question, *answers)) and task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(document)
        question = choices[question] if isinstance(question, int) else question
        answers = [choices[answer] if isinstance(answer, int) else answer for answer in answers]
    return str(question), [str(answer) for answer in answers] or [""]
