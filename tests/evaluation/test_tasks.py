"""Tasks of lm-evaluation-harness: the same figures as by its own command line; what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import inheritune
from inheritune.cli import main
from inheritune.errors import InputError
from local_tasks import ROWS, write_tasks

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


Figures = dict[tuple[str, str], tuple[float, float | None]]


def by_its_own_command(model: Path, tasks: Path, names: str, out: Path) -> Figures:
    command = [
        sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32",
        "--tasks", names, "--include_path", str(tasks), "--device", "cpu", "--batch_size", "3",
        "--output_path", str(out),
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
    reference_folder: Path, tasks: Path, tmp_path: Path
) -> None:
    theirs = by_its_own_command(reference_folder, tasks, "own_choice,own_shots,own_pages", tmp_path)
    state = torch.get_rng_state()
    names = ["own_choice", "own_shots", "own_pages"]
    (found,) = inheritune.evaluate(
        reference_folder, tasks=names, tasks_folder=tasks, trust_task_files=True, device="cpu", micro_batch=3
    )["models"]
    ours = {(name.split(":")[0], one["metric"]): (one["value"], one["se"]) for name, one in found["tasks"].items()}
    assert ours == theirs
    assert len(ours) == 6
    assert torch.equal(state, torch.get_rng_state())
    (asked,) = inheritune.evaluate(
        reference_folder, tasks="own_choice@2", tasks_folder=tasks, trust_task_files=True, device="cpu", micro_batch=3
    )["models"]
    assert asked["tasks"]["own_choice"] == found["tasks"]["own_shots"]
    assert asked["tasks"]["own_choice"]["shots"] == 2


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
    )
    again = inheritune.evaluate(
        other, tasks="own_choice@2", tasks_folder=tasks, trust_task_files=True, tokenizer=tokenizer, device="cpu"
    )
    assert found["models"][1]["tasks"] == again["models"][0]["tasks"]
    assert found["harness"]["own"] == ["own_choice"]
    plain = inheritune.evaluate(
        models, tasks="own_choice", tasks_folder=tasks, trust_task_files=True, tokenizer=tokenizer, device="cpu"
    )
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
    for name, said in (("own_faulty", r"own_faulty.*Undefined"), ("own_zero@1", "it is made for no shots")):
        with pytest.raises(InputError, match=said):
            inheritune.evaluate(reference_folder, tasks=name, tasks_folder=tasks, trust_task_files=True, device="cpu")
