"""A recipe with `inherit.refit`: rounds begin with refitted blocks, and what cannot be is refused before anything runs."""

from pathlib import Path
from typing import Any

import pytest

from conftest import read_json, tiny_recipe
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.recipe import load_recipe


def recipe(text: Path, reference: Path, **inherit: Any) -> dict[str, Any]:
    tree = tiny_recipe(text, reference)
    tree["inherit"] = {"layers": [0, 1, 3], "refit": "256 tokens", **inherit}
    tree["train"]["length"] = "2 steps"
    tree["controls"] = []
    tree["evaluate"] = {"analyze": False, "prompts": []}
    tree["grow"] = None
    return tree


def test_a_round_begins_with_refitted_blocks(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    for refit in ("256 tokens", "none"):
        run(load_recipe(write_recipe(recipe(text, reference_folder, refit=refit))), tmp_path / refit)
    fitted, plain = (next((tmp_path / refit / "rounds").glob("*/inherited.json")) for refit in ("256 tokens", "none"))
    record = read_json(fitted)["refit"]
    assert record["matrices"] == 4
    assert record["sequences"] * record["sequence_length"] == 256
    assert "refit" not in read_json(plain)
    assert "4 matrices by least squares" in (fitted.parent / "model" / "README.md").read_text(encoding="utf-8")
    losses = [read_json(tmp_path / refit / "summary.json")["rounds"][0]["val_loss"] for refit in ("256 tokens", "none")]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("more", [{"submodules": ["mlp"]}, {"layers": 2, "choose": "stacked"}])
def test_settings_that_a_refit_does_not_go_with(
    more: dict[str, Any], text: Path, reference_folder: Path, write_recipe: Any
) -> None:
    with pytest.raises(InputError, match="refit goes with submodules: all, and"):
        load_recipe(write_recipe(recipe(text, reference_folder, **more)))


def test_a_round_that_continues_a_trained_one_is_not_refitted(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = recipe(text, reference_folder, layers=2, choose="first") | {"grow": {"start": "trained"}}
    with pytest.raises(InputError, match="its blocks are trained"):
        run(load_recipe(write_recipe(tree)), tmp_path / "out")
    assert not (tmp_path / "out" / "data").exists()
