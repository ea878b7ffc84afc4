"""`grow.stop_early`: a round that cannot match by its forecast ends, and the next one begins."""

from pathlib import Path
from typing import Any

import pytest

from conftest import heard, read_json
from inheritune.arch import load_model, training_flops_per_token
from inheritune.experiment import run
from inheritune.recipe import Recipe, check, model_at
from inheritune.report.run_summary import table
from inheritune.runlog import read_metrics


def recipe(text: Path, *, stop_early: bool = True, **train: Any) -> Recipe:
    """Rounds of random blocks at a low rate, which a reference trained at a high one leaves far behind."""
    model = {"model_type": "gpt2", "n_layer": 3, "n_embd": 32, "n_head": 2, "n_positions": 32}
    made = {"model": model, "tokenizer": {"vocabulary": 300}, "length": "200 steps"}
    tree = {
        "reference": {"train": {**made, "optimizer": {"learning_rate": 0.01}}},
        "data": {"sources": [{"path": str(text)}], "validation": "600 tokens"},
        "inherit": {"layers": 1, "choose": "first", "submodules": "none"},
        "train": {
            "length": "80 steps", "batch": "4 sequences", "sequence_length": 16,
            "optimizer": {"learning_rate": 0.0005}, "checkpoint": {"every": "30 steps"}, **train,
        },
        "grow": {"by": 1, "max_layers": 2, "stop_early": stop_early},
        "evaluate": {"every": "4 steps", "sequences": 16, "analyze": False, "prompts": []},
        "recovery": "paper", "hardware": {"device": "cpu"},
    }  # fmt: skip
    return check(Recipe, tree, "recipe")


class Stop(Exception):
    pass


def test_a_hopeless_round_ends_and_the_last_one_does_not(text: Path, tmp_path: Path) -> None:
    lines = list[str]()
    with heard(lines.append):
        found = run(recipe(text), tmp_path / "run")
    first, last = found.rounds
    assert first.planned_steps == last.steps == 80
    assert 0 < first.steps < 80
    assert first.steps % 4 == 0
    assert last.planned_steps is None
    assert any(f"ended after {first.steps} of 80 steps, as its curve shows" in line for line in lines)
    records = read_metrics(tmp_path / "run" / "rounds" / "1-1layers" / "metrics.jsonl")
    assert max(one["step"] for one in records) == first.steps
    assert first.tokens == first.steps * 64
    model = load_model(model_at(tmp_path / "run" / first.model))
    assert first.flops == first.tokens * training_flops_per_token(model, 16)
    assert any("ended early" in row[0] for row in table(found).rows)


@pytest.mark.long
def test_without_the_key_no_round_ends_early(text: Path, tmp_path: Path) -> None:
    found = run(recipe(text, stop_early=False), tmp_path / "run")
    assert [one.steps for one in found.rounds] == [80, 80]
    assert [one.planned_steps for one in found.rounds] == [None, None]


@pytest.mark.long
def test_stopped_before_the_round_was_recorded_it_ends_at_the_same_step(text: Path, tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if "as its curve shows" in line:
            raise Stop

    with pytest.raises(Stop), heard(stop):
        run(recipe(text), tmp_path / "cut")
    assert not (tmp_path / "cut" / "rounds" / "1-1layers" / "training.json").exists()
    run(recipe(text), tmp_path / "cut")
    run(recipe(text), tmp_path / "whole")
    cut, whole = (read_json(tmp_path / name / "summary.json")["rounds"] for name in ("cut", "whole"))
    for one, other in zip(cut, whole, strict=True):
        assert {key: one[key] for key in ("steps", "val_loss", "flops")} == {
            key: other[key] for key in ("steps", "val_loss", "flops")
        }


@pytest.mark.long
def test_a_teacher_is_counted_as_far_as_it_taught(text: Path, tmp_path: Path) -> None:
    found = run(recipe(text, distillation={"outputs": "online"}), tmp_path / "run")
    first, last = found.rounds
    assert first.planned_steps == 80
    assert first.teacher_flops is not None
    assert last.teacher_flops is not None
    assert first.teacher_flops / last.teacher_flops == pytest.approx(first.steps / last.steps, rel=1e-6)
