import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inheritune.corpus.filters.base import check_filters, prepare_filters
from inheritune.errors import InputError
from inheritune.recipe import Data, check

QUESTION = "Which river carried the old timber bridge of the valley away in the night?"
ANSWER = "The narrow northern one, as the miller's daughter wrote to her brother in town."
AROUND = "Some words stand before it. {} And some more words come after that."


def filters(**settings: Any) -> Any:
    entry = {"filter": "decontaminate", **settings}
    return check(Data, {"sources": [{"path": "a"}], "filters": [entry]}, "data").filters


def write_records(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def reasons(chosen: Any, work: Path, *texts: str) -> list[str | None]:
    from datatrove.data import Document

    ((_, entry),) = prepare_filters(chosen, work)
    removal_reason = entry.build(work)
    return [removal_reason(Document(text=text, id="")) for text in texts]


def words(text: str) -> list[str]:
    return "".join(character if character.isalnum() else " " for character in text.lower()).split()


def slow_decision(text: str, evaluations: list[str], n: int) -> bool:
    """Whether a run of n words of the text stands in an evaluation, by comparing the words themselves."""
    runs = {
        tuple(words(other)[start : start + n]) for other in evaluations for start in range(len(words(other)) - n + 1)
    }
    return any(tuple(words(text)[start : start + n]) in runs for start in range(len(words(text)) - n + 1))


TEXTS = [
    AROUND.format(QUESTION),
    AROUND.format(QUESTION.upper().replace(" ", "\n")),  # neither case nor line breaks count
    AROUND.format(" ".join(QUESTION.split()[:11])),
    AROUND.format(" ".join(QUESTION.split()[:12])),
    AROUND.format(" ".join(QUESTION.split()[-6:] + ANSWER.split()[:6])),  # from the question into the answer
    AROUND.format(" ".join(ANSWER.split()[1:14])),
    AROUND.format("Nothing of the kind."),
    "Short.",
]


@pytest.mark.long
@pytest.mark.parametrize("n", [5, 8, 12, 14])
def test_documents_that_share_a_run_of_words_go(n: int, tmp_path: Path) -> None:
    file = write_records(tmp_path / "exam.jsonl", {"q": QUESTION, "a": ANSWER, "id": 3}, {"q": "Why?", "a": "So."})
    chosen = filters(files=[str(file)], text_keys=["q", "a"], n_grams=n)
    found = reasons(chosen, tmp_path / "work", *TEXTS)
    expected = [slow_decision(text, [f"{QUESTION} {ANSWER}", "Why? So."], n) for text in TEXTS]
    assert [reason == "exam.jsonl" for reason in found] == expected
    assert {reason for reason in found if reason != "exam.jsonl"} <= {None}
    assert 0 < sum(expected) < len(expected)


def test_folders_give_each_file_and_say_which_one_it_was(tmp_path: Path) -> None:
    exams = tmp_path / "exams" / "deep"
    exams.mkdir(parents=True)
    (exams / "plain text.txt").write_text(QUESTION + "\n" + QUESTION[::-1], encoding="utf-8")
    write_records(exams / "b.jsonl", {"text": ANSWER})
    (exams / "notes.pdf").write_bytes(b"\xff\xfe")
    found = reasons(filters(files=[str(tmp_path / "exams")]), tmp_path / "work", TEXTS[0], TEXTS[5], TEXTS[6])
    assert found == ["plain_text.txt", "b.jsonl", None]


def test_the_index_is_made_once_and_is_the_same_every_time(tmp_path: Path) -> None:
    file = write_records(tmp_path / "exam.jsonl", {"text": QUESTION}, {"text": "Too short."})
    for work in ("one", "two"):
        prepare_filters(filters(files=[str(file)]), tmp_path / work)
    (one,), (two,) = ([*(tmp_path / work / "decontaminate.index").iterdir()] for work in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    grams = [" ".join(words(QUESTION)[start : start + 12]) for start in range(len(words(QUESTION)) - 11)]
    hashes = {int.from_bytes(hashlib.sha1(gram.encode()).digest()[:8], "little") for gram in grams}
    assert np.fromfile(one, dtype="<u8").tolist() == sorted(hashes)
    file.unlink()
    prepare_filters(filters(files=[str(file)]), tmp_path / "one")  # not read again


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        ('{"text": "a"}\n{broken\n', {}, r"exam.jsonl:2: not a JSON record"),
        ("[1]\n", {}, r"exam.jsonl:1: not a JSON record with keys"),
        ('{"q": "a", "n": 3}\n', {}, r"exam.jsonl:1: no text under 'text'; .*text_keys; the keys with text are q"),
        ('{"text": "too short"}\n', {}, r"no text of the evaluations has 12 words"),
        ("", {}, r"no text of the evaluations has 12 words"),
    ],
)
def test_evaluations_that_cannot_be_used_are_refused(
    content: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "exam.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        prepare_filters(filters(files=[str(tmp_path / "exam.jsonl")], **settings), tmp_path / "work")
    assert not (tmp_path / "work" / "decontaminate.index").exists()


def test_files_that_are_no_evaluations_are_refused_by_the_check(tmp_path: Path) -> None:
    (tmp_path / "exam.pdf").write_bytes(b"x")
    for path, said in (("none.txt", "no such file"), ("exam.pdf", "neither .jsonl nor .txt"), (".", "has no .jsonl")):
        with pytest.raises(InputError, match=rf"^data.filters.0.files: .*{said}"):
            check_filters(filters(files=[str(tmp_path / path)]))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"latin.txt: not UTF-8 text \(byte 3\)"):
        prepare_filters(filters(files=[str(tmp_path / "latin.txt")]), tmp_path / "work")


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A multiple-choice task of lm-evaluation-harness on this machine; the right answer is named by its number."""
    write_records(tmp_path / "test.jsonl", {"q": QUESTION, "choices": ["Nobody knows.", ANSWER], "right": 1})
    lines = [
        "task: valley/exam", "dataset_path: json", "dataset_kwargs:", f"  data_files: {{test: {tmp_path}/test.jsonl}}",
        f"  cache_dir: {tmp_path}/cache", "test_split: test", "output_type: multiple_choice", 'doc_to_text: "{{q}}"',
        "doc_to_target: right", 'doc_to_choice: "{{choices}}"', "metric_list: [{metric: acc}]",
    ]  # fmt: skip
    (tmp_path / "exam.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "exam.yaml"


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # those of lm_eval and of what it imports
def test_tasks_of_the_harness_give_question_and_right_answer(task: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a task file, which may name code that is then run; look at it"):
        prepare_filters(filters(tasks=[str(task)]), tmp_path / "refused")
    chosen = filters(tasks=[str(task)], trust_task_files=True)
    check_filters(chosen)
    wrong = AROUND.format(" ".join([*QUESTION.split()[-11:], "Nobody knows."]))
    found = reasons(chosen, tmp_path / "work", TEXTS[0], TEXTS[4], TEXTS[5], wrong, TEXTS[6])
    assert found == ["valley_exam", "valley_exam", "valley_exam", None, None]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_tasks_without_name_or_network_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(InputError, match=r"^data.filters.0.tasks: .*has no task 'helaswag'; did you mean hellaswag"):
        check_filters(filters(tasks=["helaswag"]))
    check_filters(filters(tasks=["hellaswag"]))
    with pytest.raises(InputError, match=r"^data.filters.0.tasks: the data of the task hellaswag cannot be had"):
        prepare_filters(filters(tasks=["hellaswag"]), tmp_path / "work")
