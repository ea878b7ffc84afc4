"""A recipe's evaluate.tasks: checked first, asked of reference and result, never asked twice."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import inheritune
from conftest import read_json, tiny_recipe
from inheritune.cli import main
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.recipe import load_recipe
from local_tasks import write_tasks
from processes import together

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def recipe_of(text: Path, tasks: Path, names: list[str], place: Path) -> Path:
    tree = tiny_recipe(text)
    tree |= {"controls": [], "grow": None}
    tree["reference"]["train"]["model"]["n_positions"] = 128
    tree["evaluate"] |= {"tasks": names, "tasks_folder": str(tasks), "trust_task_files": True}
    place.write_text(yaml.safe_dump(tree))
    return place


def test_reference_and_result_are_asked_and_nothing_twice(
    text: Path, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", str(recipe_of(text, tasks, ["own_choice@2"], tmp_path / "r.yaml")), "--out", str(out)]) == 0
    assert "own_choice" in capsys.readouterr().out
    summary, first = read_json(out / "summary.json"), read_json(out / "tasks.json")
    assert [model["name"] for model in first["models"]] == ["reference", "target"]
    assert [model["path"] for model in first["models"]] == ["reference/model", summary["result"]["model"]]
    for model, recorded in zip(first["models"], (summary["reference"], summary["result"]), strict=True):
        assert {key: model[key] for key in ("val_loss", "val_loss_se", "layers")} == {
            key: recorded[key] if key in recorded else summary["rounds"][0][key]
            for key in ("val_loss", "val_loss_se", "layers")
        }
    # the command, on the run's folder, finds the same
    found = inheritune.evaluate(
        out, tasks=["own_choice@2"], tasks_folder=tasks, trust_task_files=True, device="cpu", micro_batch=2
    ).to_json()
    for model, other in zip(first["models"], found["models"], strict=True):
        for key in ("val_loss", "bits_per_byte", "tasks", "parameters"):
            assert model[key] == other[key]
    # further tasks for a finished run: what is there stays
    kept = {file: file.stat().st_mtime_ns for file in out.glob("tasks/*/own_choice*.json")}
    assert len(kept) == 2
    run(load_recipe(recipe_of(text, tasks, ["own_choice@2", "own_pages"], tmp_path / "r.yaml")), out)
    more = read_json(out / "tasks.json")
    assert more["models"][1]["tasks"].keys() == {*first["models"][1]["tasks"], "own_pages", "own_pages:bits_per_byte"}
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert read_json(out / "summary.json") == summary


def test_what_cannot_be_asked_ends_the_run_before_it_begins(text: Path, tasks: Path, tmp_path: Path) -> None:
    for names, said in ((["own_choise"], "did you mean own_choice"), (["piqa"], "data of the task piqa cannot be had")):
        with pytest.raises(InputError, match=f"^evaluate.tasks: .*{said}"):
            run(load_recipe(recipe_of(text, tasks, names, tmp_path / "r.yaml")), tmp_path / "out")
    with pytest.raises(InputError, match=r"evaluate.tasks: .* is a folder of task files"):
        spec = ["evaluate.trust_task_files=false"]
        run(load_recipe(recipe_of(text, tasks, ["own_pages"], tmp_path / "r.yaml"), spec), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_processes_find_what_one_finds(reference_folder: Path, text: Path, tasks: Path, tmp_path: Path) -> None:
    words: list[Any] = ["evaluate", reference_folder, "--text", text, "--tasks", "own_choice", "--tasks-folder", tasks]
    words += ["--trust-task-files", "--device", "cpu", "--out", tmp_path / "two"]
    for done in together(2, *words):
        assert done.returncode == 0, done.stderr
    two = read_json(tmp_path / "two" / "evaluation.json")
    one = inheritune.evaluate(
        reference_folder, text=text, tasks="own_choice", tasks_folder=tasks, trust_task_files=True, device="cpu"
    ).to_json()
    assert two["models"][0]["tasks"] == one["models"][0]["tasks"]
    assert two["models"][0]["bits_per_byte"] == pytest.approx(one["models"][0]["bits_per_byte"], rel=1e-6)
    assert two["models"][0]["val_loss_se"] == pytest.approx(one["models"][0]["val_loss_se"], rel=1e-4)
