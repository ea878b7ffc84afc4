"""A recipe as a list of trainings: what `plan` prices is what `run` does."""

from pathlib import Path
from typing import Any

import pytest

from conftest import read_json, tiny_recipe
from inheritune import pipeline
from inheritune.corpus import prepare
from inheritune.errors import InputError
from inheritune.planner import choose_devices
from inheritune.recipe import Data, Recipe


def planned(tree: dict[str, Any], **options: Any) -> dict[str, Any]:
    return pipeline.plan_recipe(Recipe.model_validate(tree), choose_devices(["L4"]), **options)


def names(found: dict[str, Any]) -> list[tuple[str, int, list[str]]]:
    return [(each["name"], each["blocks"], each["counts"]) for each in found["trainings"]]


@pytest.mark.long
def test_a_run_does_what_was_planned(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    tree = tiny_recipe(text, reference_folder)
    tree["data"]["size"] = "1K tokens"
    summary = pipeline.run(Recipe.model_validate(tree), tmp_path / "run")
    found = planned(tree)
    by_name = {(each["name"], each["blocks"]): each for each in found["trainings"]}
    assert by_name["reference", 4]["parameters"]["total"] == summary["reference"]["parameters"]
    for number, each in enumerate(summary["rounds"], start=1):
        plan = by_name[f"round {number}", each["layers"]]
        assert plan["parameters"]["total"] == each["parameters"]
        assert (plan["steps"], plan["tokens"], plan["flops"]) == (each["steps"], each["tokens"], each["flops"])
        assert plan["epochs"] == pytest.approx(each["epochs"], abs=1e-4)
        stored = sum(file.stat().st_size for file in (tmp_path / "run" / each["model"]).glob("*.safetensors"))
        assert plan["disk"]["model"] == pytest.approx(stored, rel=0.1)  # beside the tensors, their names
    (control,) = summary["controls"]
    plan = by_name["control random", control["layers"]]
    assert (plan["flops"], plan["parameters"]["total"]) == (control["flops"], control["parameters"])
    assert read_json(tmp_path / "run" / "data" / "manifest.json")["tokens"]["train"] == found["text"]["train_tokens"]


def test_every_training_that_there_may_be(text: Path, reference_folder: Path) -> None:
    tree = tiny_recipe(text, reference_folder) | {"controls": ["random", "reference-continued"]}
    both, most = ["least", "most"], ["most"]
    assert names(planned(tree)) == [
        ("reference", 4, both), ("round 1", 1, both), ("round 2", 2, most), ("control random", 1, ["least"]),
        ("control random", 2, most), ("control reference-continued", 4, both),
    ]  # fmt: skip
    tree["grow"] = {"by": 1, "max_layers": 2, "until": "max_layers", "start": "trained"}
    found = planned(tree)
    assert names(found)[1:3] == [("round 1", 1, both), ("round 2", 2, both)]
    steps = {(each["name"], each["blocks"]): each["steps"] for each in found["trainings"]}
    assert steps["control random", 2] == 2 * steps["round 2", 2]  # the budget of the rounds it went through
    tree |= {"grow": None, "controls": ["random"]}
    assert names(planned(tree))[1:] == [("round 1", 1, both), ("control random", 1, both)]


def test_a_reference_that_is_made_first(text: Path) -> None:
    found = planned(tiny_recipe(text))
    reference = found["trainings"][0]
    assert (reference["name"], reference["blocks"], reference["steps"]) == ("reference", 3, 12)
    assert reference["flops"] > 0


def test_the_config_is_enough(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((reference_folder / "config.json").read_bytes())
    tree = tiny_recipe(Path("/nowhere/text"), tmp_path)
    expected = planned(tiny_recipe(text, reference_folder))
    assert planned(tree)["trainings"] == expected["trainings"]
    tree["data"] = {"prepared": "/nowhere/data"}
    assert planned(tree)["text"]["train_tokens"] is None


def test_prepared_text_says_how_much_there_is(
    text: Path, reference_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    data = Data.model_validate({"sources": [{"path": str(text)}], "size": "2K tokens", "validation": "600 tokens"})
    prepare(data, tokenizer, tmp_path / "data")
    tree = tiny_recipe(text, reference_folder) | {"data": {"prepared": str(tmp_path / "data")}}
    tree["train"]["length"] = "3 epochs"
    found = planned(tree)
    assert found["text"]["train_tokens"] == 2000
    assert found["trainings"][1]["steps"] == 3 * (1999 // 16) // 4


@pytest.mark.parametrize(
    ("data", "length", "said"),
    [({"size": "10 tokens"}, "1 epochs", "do not fill one sequence"), ({}, "20 tokens", "less than one step")],
)
def test_too_little(data: dict[str, str], length: str, said: str, text: Path, reference_folder: Path) -> None:
    tree = tiny_recipe(text, reference_folder)
    tree["data"] |= data
    tree["train"]["length"] = length
    with pytest.raises(InputError, match=said):
        planned(tree)


def test_turned_round(text: Path, reference_folder: Path) -> None:
    found = planned(tiny_recipe(text, reference_folder), memory=1e9, hours=0.01)["fit"]
    assert found["most_blocks"]["as the recipe says"] == 4
    assert [row["blocks"] for row in found["rows"]] == [1, 2, 3, 4]
    assert all(row["micro_batch"] == 4 for row in found["rows"])
