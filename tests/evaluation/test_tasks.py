"""Tasks of lm-evaluation-harness: the same figures as by its own command line; what is refused."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

import inheritune
from conftest import read_json
from inheritune.cli import main
from inheritune.errors import InputError
from local_tasks import PAGES, ROWS, write_tasks

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


Figures = dict[tuple[str, str], tuple[float, float | None]]


@pytest.fixture(scope="module")
def theirs(reference_folder: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Figures, Path]:
    """The harness's own figures of the reference, and the folder in which it logs its answers."""
    out = tmp_path_factory.mktemp("harness")
    names = "own_choice,own_shots,own_pages,own_passages"
    return by_its_own_command(reference_folder, tasks, names, out, "--log_samples"), out


def by_its_own_command(model: Path, tasks: Path, names: str, out: Path, *more: str) -> Figures:
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
        "--tasks", names, "--include_path", str(tasks), "--device", "cpu", "--batch_size", "3",
        "--output_path", str(out), *more,
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    (result,) = out.rglob("results*.json")
    found: Figures = {}
    for task, figures in json.loads(result.read_text())["results"].items():
        for key in figures:
            metric = key.removesuffix(",none")
            if metric != key and not metric.endswith("_stderr"):
                error = figures[f"{metric}_stderr,none"]
                found[task, metric] = figures[key], None if error == "N/A" else error
    return found


def test_figures_are_those_of_its_own_command_line_to_the_last_digit(
    reference_folder: Path, tasks: Path, theirs: tuple[Figures, Path]
) -> None:
    state = torch.get_rng_state()
    names = ["own_choice", "own_shots", "own_pages"]
    (found,) = inheritune.evaluate(
        reference_folder, tasks=names, tasks_folder=tasks, trust_task_files=True, device="cpu", micro_batch=3
    ).to_json()["models"]
    ours = {(name.split(":")[0], one["metric"]): (one["value"], one["se"]) for name, one in found["tasks"].items()}
    assert ours == {key: value for key, value in theirs[0].items() if key[0] in names}
    assert len(ours) == 6
    assert torch.equal(state, torch.get_rng_state())
    (asked,) = inheritune.evaluate(
        reference_folder, tasks="own_choice@2", tasks_folder=tasks, trust_task_files=True, device="cpu", micro_batch=3
    ).to_json()["models"]
    assert asked["tasks"]["own_choice"] == found["tasks"]["own_shots"]
    assert asked["tasks"]["own_choice"]["shots"] == 2


def test_questions_on_one_passage_are_taken_together(
    reference_folder: Path, tasks: Path, theirs: tuple[Figures, Path]
) -> None:
    """The value is the harness's; the error is that of five passages, by the answers that the harness logs."""
    (found,) = inheritune.evaluate(
        reference_folder, tasks="own_passages", tasks_folder=tasks, trust_task_files=True, device="cpu"
    ).models
    own = found.tasks["own_passages"]
    (file,) = theirs[1].rglob("samples_own_passages_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    names = list(dict.fromkeys(sample["doc"]["passage"] for sample in samples))
    answers = np.array([sample["acc"] for sample in samples])
    belongs = np.array([[sample["doc"]["passage"] == name for name in names] for sample in samples], float)
    sums, sizes = answers @ belongs, belongs.sum(axis=0)
    annihilator = np.eye(5) - np.outer(sizes, np.ones(5)) / 9
    factor = (sizes**2).sum() / np.trace(annihilator @ np.diag(sizes**2) @ annihilator.T)
    assert own.value == answers.mean() == theirs[0]["own_passages", "acc"][0]
    assert 0 < answers.sum() < 9
    assert own.se == pytest.approx(np.sqrt(factor * ((annihilator @ sums) ** 2).sum()) / 9)
    assert own.se != pytest.approx(theirs[0]["own_passages", "acc"][1])


def rolling_sum(model: Any, before: list[int], ids: list[int]) -> float:
    """The log-likelihood of `ids` behind `before`, as many in a window as the model has positions for."""
    longest, row, at = model.config.max_position_embeddings, [*before, *ids], len(before)
    total = 0.0
    while at < len(row):
        stop = min(at + longest if at > len(before) else longest + 1, len(row))
        begin = max(0, stop - 1 - longest)
        with torch.no_grad():
            logs = model(torch.tensor([row[begin : stop - 1]])).logits[0].double().log_softmax(-1)
        total += sum(float(logs[index - 1 - begin, row[index]]) for index in range(at, stop))
        at = stop
    return total


@pytest.fixture(scope="module")
def with_start(reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference with a tokenizer that puts a start token before a text."""
    folder = Path(shutil.copytree(reference_folder, tmp_path_factory.mktemp("start") / "model"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = [(tokenizer.bos_token, tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(f"{start[0][0]} $A", f"{start[0][0]} $A $B", start)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_second_start_token_is_shown_and_taken_out(
    with_start: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under the task's name the harness's figure, which counts the tokenizer's start token; beside it that without."""
    command = ["evaluate", str(with_start), "--tasks", "own_pages,own_choice", "--tasks-folder", str(tasks)]
    assert main([*command, "--trust-task-files", "--device", "cpu", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "(one start token)" in shown
    assert "puts a second one there and counts it as text" in shown
    found = read_json(tmp_path / "out" / "evaluation.json")["models"][0]["tasks"]
    theirs = by_its_own_command(with_start, tasks, "own_pages", tmp_path)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(with_start).eval(),
        AutoTokenizer.from_pretrained(with_start),
    )
    start = [tokenizer.bos_token_id]
    texts = [page["page"] for page in PAGES]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert max(map(len, ids)) > 2 * model.config.max_position_embeddings  # several windows
    words = sum(
        len(re.split(r"\s+", text)) for text in texts
    )  # as the harness counts them, a space at the end included
    size = sum(len(text.encode()) for text in texts)
    names = ["own_pages", "own_pages:bits_per_byte"]
    for twice, end in ((True, ""), (False, " (one start token)")):
        total = sum(rolling_sum(model, start, (start if twice else []) + one) for one in ids)
        keys = names if twice else ["own_pages:word_perplexity" + end, "own_pages:bits_per_byte" + end]
        expected = [math.exp(-total / words), -total / size / math.log(2)]
        assert [found[key]["value"] for key in keys] == pytest.approx(expected, rel=1e-5)
        assert [found[key]["metric"] for key in keys] == ["word_perplexity" + end, "bits_per_byte" + end]
    assert found["own_pages"]["value"] == theirs["own_pages", "word_perplexity"][0]
    assert not any("one start" in name for name in found if name.startswith("own_choice"))


def test_without_a_start_token_there_is_one_figure(reference_folder: Path, tasks: Path) -> None:
    (found,) = inheritune.evaluate(
        reference_folder, tasks="own_pages", tasks_folder=tasks, trust_task_files=True, device="cpu"
    ).to_json()["models"]
    assert list(found["tasks"]) == ["own_pages", "own_pages:bits_per_byte"]


def test_several_models_are_asked_the_same_questions(reference_folder: Path, tasks: Path) -> None:
    """The accuracies of a slow formula, for a model and one with other weights."""
    other = AutoModelForCausalLM.from_pretrained(reference_folder)
    torch.manual_seed(5)
    with torch.no_grad():
        other.lm_head.weight.normal_()
    tokenizer = AutoTokenizer.from_pretrained(reference_folder)
    models = [AutoModelForCausalLM.from_pretrained(reference_folder), other]
    found = inheritune.evaluate(
        models, tasks="own_choice@2", tasks_folder=tasks, trust_task_files=True, tokenizer=tokenizer, device="cpu"
    ).to_json()
    again = inheritune.evaluate(
        other, tasks="own_choice@2", tasks_folder=tasks, trust_task_files=True, tokenizer=tokenizer, device="cpu"
    ).to_json()
    assert found["models"][1]["tasks"] == again["models"][0]["tasks"]
    assert found["harness"]["own"] == ["own_choice"]
    plain = inheritune.evaluate(
        models, tasks="own_choice", tasks_folder=tasks, trust_task_files=True, tokenizer=tokenizer, device="cpu"
    ).to_json()
    for model, figures in zip(models, plain["models"], strict=True):
        right = [likeliest(model, tokenizer, row["q"], row["choices"]) == row["right"] for row in ROWS]
        assert figures["tasks"]["own_choice"]["value"] == sum(right) / len(ROWS)


def likeliest(model: Any, tokenizer: Any, question: str, choices: list[str]) -> int:
    likelihoods = []
    for choice in choices:
        before, whole = tokenizer(question)["input_ids"], tokenizer(question + choice)["input_ids"]
        with torch.no_grad():
            logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        likelihoods.append(sum(float(logs[at - 1, whole[at]]) for at in range(len(before), len(whole))))
    return likelihoods.index(max(likelihoods))


def test_a_task_file_a_limit_and_the_table(
    reference_folder: Path, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(reference_folder), "--tasks", f"{tasks}/choice.yaml", "--limit", "2", "--device", "cpu"]
    assert main(words) == 2
    assert "choice.yaml is a task file, which may name code that is then run" in capsys.readouterr().err
    assert main([*words, "--trust-task-files", "--quiet"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "own_choice" in out
    assert "The first 2 questions of each task: a trial" in out
    assert f"From task files of your own: {tasks}/choice.yaml" in out.replace("\n", "")


def test_what_cannot_be_asked_is_a_line(
    reference_folder: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--tasks-folder", str(tasks), "--trust-task-files"]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.yaml").write_text("task: [")
    cases = [
        (["--tasks", "own_choise", *own], "has no task 'own_choise'; did you mean own_choice"),
        (["--tasks", "inheritune-v2"], "did you mean inheritune-v"),
        (["--tasks", "own_choice", *own[:2]], "is a folder of task files, which may name code that is then run"),
        (["--tasks", "inheritune-v4"], "the data of the task arc_easy cannot be had (ConnectionError"),
        (["--tasks", "x", "--tasks-folder", str(tmp_path / "broken"), own[2]], "a.yaml: not a task file"),
        (["--tasks", "x", "--tasks-folder", str(tmp_path / "none"), own[2]], "no folder with task files"),
        (["--tasks", "own_choice@2,own_choice", *own], "own_choice is asked for twice"),
    ]
    for words, said in cases:
        assert main(["evaluate", str(reference_folder), *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_a_task_that_fails_is_a_line(reference_folder: Path, tasks: Path) -> None:
    for name, said in (("own_faulty", r"own_faulty.*Undefined"), ("own_zero@1", "its file sets num_fewshot to 0")):
        with pytest.raises(InputError, match=said):
            inheritune.evaluate(reference_folder, tasks=name, tasks_folder=tasks, trust_task_files=True, device="cpu")
