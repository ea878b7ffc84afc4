"""Results as typed values: what is in a file comes back, what is not in it stays absent, and damage is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inheritune.errors import DamagedFile, InputError
from inheritune.results import (
    ArmResult,
    Comparison,
    EvaluationResult,
    JudgedArm,
    ModelResult,
    Round,
    RoundResult,
    TrainingCost,
    TrainingResult,
    read_judged,
)

COST: dict[str, Any] = {
    "layers": 2, "parameters": 1000, "tokens": 640, "epochs": 1.5, "steps": 10, "left_over_tokens": 0, "flops": 12345678901234567890,
    "tokens_per_second": 99.5, "seconds": 6.4, "wall_seconds": 7.0,
}  # fmt: skip
JUDGED: dict[str, Any] = {
    **COST, "name": "round 1-2layers", "val_loss": 3.25, "val_loss_se": None, "gap": 0.25, "gap_se": None, "gap_upper": None, "decision": "behind",
    "validation_sequences": 1, "validation_documents": 1, "model": "model", "cluster_losses": [3.25], "cluster_tokens": [16],
    "curve_loss": 3.25,
}  # fmt: skip
STAGE = {
    "folder": ".",
    "layers": 2,
    "parameters": 1000,
    "tokens": 640,
    "steps": 10,
    "flops": 5,
    "seconds": 6.4,
    "val_loss": 3.25,
    "decision": "behind",
}
ARM = {key: value for key, value in JUDGED.items() if key != "name"} | {
    "seed": 1, "blocks": None, "best_val_loss": 3.25, "best_val_loss_se": None, "best_step": 10, "best_cluster_losses": [3.25],
    "flops_to_match": None, "stages": [STAGE],
}  # fmt: skip
FIGURES = {
    key: value
    for key, value in ARM.items()
    if key not in ("seed", "stages", "best_step", "curve_loss", "validation_documents") and "cluster" not in key
}
COMPARED: dict[str, Any] = {
    "finished": False,
    "reference": {"name": "large", "folder": "reference", "layers": 4, "parameters": 2000, "val_loss": 3.0, "val_loss_se": 0.1},
    "arms": [
        {"name": "later", "start": "random", "state": "waiting", "failures": [], "allow_unequal": None, "verdict": "waiting"},
        {key: value for key, value in FIGURES.items() if key not in ("wall_seconds", "validation_sequences")} | {
            "name": "inherited", "start": "inherit", "state": "finished", "failures": [{"seed": 2, "error": "no room"}], "allow_unequal": "longer",
            "verdict": "behind", "tokens": 640.5, "val_loss_margin_seeds": None, "best_val_loss_margin_seeds": None, "equal": False, "runs": [],
        },
    ],
    "budget_tokens": 640, "seeds": [1], "tolerance": 0.0, "validation_sequences": 3, "validation_documents": 30, "curve_sequences": 2, "published": None,
}  # fmt: skip
TASKS = {
    "text": None, "harness": {"version": "0.4.13", "limit": None, "pinned": None, "own": []}, "published": [],
    "models": [{"name": "a", "path": "b", "parameters": 3, "layers": 1, "tasks": {"piqa": {"metric": "acc", "shots": 0, "value": 0.5, "se": None}}}],
}  # fmt: skip


def save(path: Path, tree: Any) -> Path:
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "tree"),
    [
        (TrainingCost, COST),
        (
            TrainingCost,
            COST
            | {
                "prefix": [1],
                "teacher_outputs": "stored",
                "teacher_flops": 7,
                "teacher_head_flops": 3,
                "teacher_seconds": 0.5,
            },
        ),
        (TrainingResult, JUDGED),
        (ArmResult, ARM),
        (Comparison, COMPARED),
        (EvaluationResult, TASKS),
    ],
)
def test_a_file_comes_back_with_every_key(tmp_path: Path, kind: Any, tree: Any) -> None:
    tree = {"version": kind.VERSION} | tree
    kind.read(save(tmp_path / "old.json", tree)).write(tmp_path / "new.json")
    written = json.loads((tmp_path / "new.json").read_text())
    assert written == tree
    assert isinstance(written.get("flops", 0), int)  # whole numbers stay whole, however large
    assert kind.read(tmp_path / "new.json").to_json() == written


def test_a_teachers_head_counts_with_its_passes(tmp_path: Path) -> None:
    for more, expected in (({}, None), ({"teacher_flops": 7}, 7), ({"teacher_flops": 7, "teacher_head_flops": 3}, 10)):
        assert TrainingCost.read(save(tmp_path / "one.json", COST | more)).all_teacher_flops == expected


def test_a_file_without_a_version_is_the_first(tmp_path: Path) -> None:
    assert TrainingCost.read(save(tmp_path / "old.json", COST)).to_json() == {"version": 1} | COST
    assert not TrainingCost.is_outdated(tmp_path / "old.json")
    assert TrainingResult.is_outdated(save(tmp_path / "evaluation.json", JUDGED))
    assert not TrainingResult.is_outdated(tmp_path / "missing.json")
    with pytest.raises(InputError, match="is of version 1, not 2; use the inheritune that wrote it, or delete it"):
        TrainingResult.read(tmp_path / "evaluation.json")


def test_format_was_the_versions_name(tmp_path: Path) -> None:
    assert (
        EvaluationResult.read(save(tmp_path / "tasks.json", {"format": 1} | TASKS)).to_json() == {"version": 1} | TASKS
    )


@pytest.mark.parametrize("name", ["version", "format"])
def test_a_newer_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"old.json: is of version 7, not 2; use the inheritune that wrote it"):
        TrainingResult.read(save(tmp_path / "old.json", {name: 7} | JUDGED))


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({key: JUDGED[key] for key in JUDGED if key != "val_loss"}, "it has no 'val_loss'"),
        (JUDGED | {"steps": "ten"}, "'steps': input should be a valid integer"),
        (JUDGED | {"cluster_losses": [3.0, None]}, r"'cluster_losses\.1': input should be a valid number"),
        ([JUDGED], "not a mapping of keys"),
    ],
)
def test_damage_is_named_with_file_key_and_remedy(tmp_path: Path, tree: Any, problem: str) -> None:
    with pytest.raises(DamagedFile, match=rf"evaluation\.json: damaged: {problem}.*; delete it; the stage"):
        TrainingResult.read(
            save(tmp_path / "evaluation.json", {"version": 2} | tree if isinstance(tree, dict) else tree)
        )


def test_a_damaged_arm_is_no_arm_that_waits(tmp_path: Path) -> None:
    arm = {key: value for key, value in COMPARED["arms"][1].items() if key != "gap"}
    with pytest.raises(DamagedFile, match=r"it has no 'arms\.0\.judged\.gap'; run the comparison again"):
        Comparison.read(save(tmp_path / "comparison.json", {"version": 2} | COMPARED | {"arms": [arm]}))


def test_arms_with_a_result_are_told_apart(tmp_path: Path) -> None:
    compared = Comparison.read(save(tmp_path / "comparison.json", {"version": 2} | COMPARED))
    assert [type(arm) is JudgedArm for arm in compared.arms] == [False, True]
    assert [arm.name for arm in compared.judged] == ["inherited"]


def test_a_judged_model_need_not_be_trained(tmp_path: Path) -> None:
    judged = {"version": 2} | JUDGED
    untrained = {key: value for key, value in judged.items() if key in ("version", *ModelResult.model_fields)}
    assert type(read_judged(save(tmp_path / "a.json", untrained | {"revision": None}))) is ModelResult
    assert type(read_judged(save(tmp_path / "b.json", judged))) is TrainingResult


def test_a_result_is_made_of_what_another_one_shares() -> None:
    result = RoundResult(**JUDGED, folder="1-2layers", blocks=[0, 1], tokens_before=5)
    shown = Round.of(result, model="rounds/1-2layers/model")
    assert shown.model == "rounds/1-2layers/model"
    assert shown.all_tokens == 645
    assert "tokens_before" in shown.given()
    assert "steps_before" not in shown.given()  # not given, so not in the file
    assert "name" not in shown.given()


def test_results_load_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import inheritune.results, sys; sys.exit('torch' in sys.modules)"], check=False
    )
    assert done.returncode == 0
