"""The filter `decontaminate`: the n-grams of evaluations as hashes, and datatrove's filter that looks for them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from inheritune.corpus.filters.base import Count, Document, DocumentFilter, Steps, Words
from inheritune.corpus.filters.words import SharedTokenizer
from inheritune.errors import InputError
from inheritune.harness import check_tasks, data_errors, load_task
from inheritune.limits import BENCHMARK_BYTES, read_text
from inheritune.runlog import new_folder

_SUFFIXES = (".jsonl", ".txt")


class Decontaminate(DocumentFilter):
    """Removes documents that share a run of words with an evaluation's questions and answers."""

    filter: Literal["decontaminate"] = "decontaminate"
    """The filter's name."""
    files: list[Path] = []
    """Evaluation texts on this machine: .txt and .jsonl files, or folders of them (searched at every depth)."""
    text_keys: Annotated[list[str], Field(min_length=1)] = ["text"]
    """The keys of a .jsonl record whose texts are compared, one after the other: for example [question, answer]."""
    tasks: list[str] = []
    """Tasks and groups of lm-evaluation-harness, and task files (.yaml): each question with its right answers."""
    trust_task_files: bool = False
    """Read task files. They may name Python code, which is then run: only for files that you trust."""
    n_grams: Count = 12
    """The length of a run, in words. Case, punctuation, accents and the digits of numbers do not count."""
    language: Words = "en"

    @model_validator(mode="after")
    def _against_something(self) -> Self:
        if not self.files and not self.tasks:
            raise ValueError("nothing to compare with; give files or tasks")
        return self

    def check(self, place: str) -> None:
        """The tokenizer, the files, and the names of the tasks."""
        super().check(place)
        for path in self.files:
            _list_files(path, f"{place}.files")
        self._check_tasks(place)

    def prepare(self, work: Path, place: str) -> None:
        """Write the hashes of all n-grams of the evaluations into a folder, unless it exists.

        One file of little-endian uint64 for each evaluation, sorted, as datatrove's filter reads them. Raises
        InputError for evaluations that cannot be read, or that are all shorter than an n-gram.
        """
        from datatrove.pipeline.decont import NGramsDecontIndexer

        if self._index(work).exists():
            return
        step = self._step(work)
        hashes: dict[str, set[int]] = {}
        for name, text in self._texts(place):
            # The indexer's method works on the filter; making an indexer would need lighteval.
            hashes.setdefault(name, set()).update(NGramsDecontIndexer.compute_hashes(step, text))
        if not any(hashes.values()):
            raise InputError(
                place,
                f"no text of the evaluations has {self.n_grams} words, so no document could match",
                "lower n_grams, or name all text_keys: question and answer are compared as one text",
            )
        with new_folder(self._index(work)) as partial:
            for name, values in hashes.items():
                file = partial / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}.index.hashes"
                np.array(sorted(values), dtype=step.config.hash_config.np_descr).tofile(file)

    def steps(self, work: Path) -> Steps:
        """Datatrove's filter, which reads the index with its first document."""
        yield self._step(work)

    def name_reason(self, document: Document, reason: str | None) -> str:
        """The evaluation that shares a run of words with the document."""
        return str(document.metadata["contaminated_task"])

    def _index(self, work: Path) -> Path:
        return work / f"{self.title}.index"

    def _step(self, work: Path) -> Any:
        from datatrove.pipeline.decont import NGramsDecontConfig, NGramsDecontFilter
        from datatrove.utils.hashing import HashConfig

        # datatrove's call of xxhash fails from xxhash 4 on
        config = NGramsDecontConfig(n_grams=self.n_grams, hash_config=HashConfig(hash_fc="sha1"))
        step = NGramsDecontFilter(str(self._index(work)), config, language=self.language)
        step.tokenizer = SharedTokenizer(self.language)
        return step

    def _check_tasks(self, place: str) -> None:
        if self.tasks:
            check_tasks(self.tasks, f"{place}.tasks", self.trust_task_files)

    def _texts(self, place: str) -> Iterator[tuple[str, str]]:
        """The texts of the evaluations, each with the name of its evaluation."""
        for path in self.files:
            for file in _list_files(path, f"{place}.files"):
                for text in _read(file, self.text_keys, place):
                    yield file.name, text
        self._check_tasks(place)
        for name in self.tasks:
            yield from _task_texts(name, f"{place}.tasks")


def _list_files(path: Path, place: str) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        if not files:
            raise InputError(place, f"{path} has no .jsonl or .txt file", "give a folder that has some")
        return files
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
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"not a JSON record ({error})", "correct the line") from None
    if not isinstance(record, dict):
        raise InputError(where, "not a JSON record with keys", "correct the line")
    for key in keys:
        if not isinstance(record.get(key), str):
            known = ", ".join(name for name, value in record.items() if isinstance(value, str)) or "none"
            raise InputError(where, f"no text under {key!r}", f"set {place}.text_keys; the keys with text are {known}")
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
    """A task may give the question or the answer as its number among the choices."""
    question, answers = task.doc_to_text(document), task.doc_to_target(document)
    answers = answers if isinstance(answers, list | tuple) else [answers]
    if any(isinstance(value, int) for value in (question, *answers)) and task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(document)
        question, *answers = (choices[value] if isinstance(value, int) else value for value in (question, *answers))
    return str(question), [str(answer) for answer in answers] or [""]
