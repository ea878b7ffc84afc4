"""A recipe with distillation: the reference is the teacher of all rounds and of the random control."""

from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from inheritune import load_recipe, run
from inheritune.errors import InputError
from inheritune.runlog import read_metrics


def recipe(text: Path, reference: Path, **distillation: Any) -> dict[str, Any]:
    tree = tiny_recipe(text, reference)
    tree["train"]["distillation"] = distillation
    tree["grow"] = {"by": 1, "until": "max_layers", "max_layers": 2}
    tree["controls"] = ["random", "reference-continued"]
    tree["hardware"] = {"device": "cpu"}
    return tree


@pytest.mark.long
def test_the_reference_teaches(text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = recipe(text, reference_folder, top_k=8, outputs="stored")
    found = run(load_recipe(write_recipe(tree)), tmp_path / "run")
    random, continued = found.controls
    for arm in (*found.rounds, random):
        assert arm.teacher_outputs == "stored"
        assert arm.teacher_flops == found.rounds[0].teacher_flops > 0
        folder = (tmp_path / "run" / arm.model).parent
        records = [record for record in read_metrics(folder / "metrics.jsonl") if "loss" in record]
        for record in records:
            assert record["loss"] == pytest.approx(0.6 * record["cross_entropy"] + 0.4 * record["kl"], rel=1e-5)
    assert continued.teacher_flops is continued.teacher_outputs is None
    assert len(list((tmp_path / "run" / "teacher").glob("*/manifest.json"))) == 1
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "teacher FLOPs" in page


@pytest.mark.long
def test_a_reference_that_is_made_first_has_no_teacher(text: Path, write_recipe: Any, tmp_path: Path) -> None:
    tree = tiny_recipe(text)
    tree["train"]["distillation"] = {"outputs": "online"}
    tree |= {"grow": None, "controls": [], "hardware": {"device": "cpu"}}
    found = run(load_recipe(write_recipe(tree)), tmp_path / "run")
    assert "teacher" not in (tmp_path / "run" / "reference" / "evaluation.json").read_text(encoding="utf-8")
    assert found.rounds[0].teacher_outputs == "online"
    own = read_metrics(tmp_path / "run" / "reference" / "metrics.jsonl")
    assert not any("kl" in record for record in own)


def test_more_entries_than_the_reference_has(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    path = write_recipe(recipe(text, reference_folder, top_k=301))
    with pytest.raises(
        InputError, match=r"train\.distillation\.top_k: 301, the teacher's vocabulary has 300 entries; g"
    ):
        run(load_recipe(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()
