"""A run whose target is narrower: units are chosen on training text, the control has the same shape."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from conftest import read_json, tiny_recipe
from inheritune.errors import InputError
from inheritune.experiment import plan_recipe, run
from inheritune.planner import choose_devices
from inheritune.recipe import Recipe

WIDTHS = ("num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_size")


def recipe(text: Path, reference: Path, **inherit: Any) -> Recipe:
    tree = tiny_recipe(text, reference)
    tree["inherit"] = {"layers": 2, "choose": "first", **inherit}
    tree["evaluate"] = {"analyze": False, "prompts": []}
    return Recipe.model_validate(
        tree | {"controls": ["random"], "grow": {"by": 1, "max_layers": 3, "until": "max_layers"}}
    )


def test_rounds_and_control_have_the_shape(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    asked = recipe(text, reference_folder, heads=2, mlp=20, hidden=24, refit="640 tokens")
    summary = run(asked, tmp_path / "run")
    shapes = []
    for made in (*summary.rounds, *summary.controls):
        config = AutoConfig.from_pretrained(tmp_path / "run" / made.model)
        shapes.append([getattr(config, name) for name in WIDTHS])
    assert shapes[:2] == [[2, 2, 20, 24], [3, 2, 20, 24]]
    best = next(place for place, one in enumerate(summary.rounds) if one.model == summary.result.model)
    assert shapes[2] == shapes[best]
    assert summary.controls[0].parameters == summary.rounds[best].parameters
    notes = read_json(tmp_path / "run" / "rounds" / "1-2layers" / "inherited.json")
    assert notes["units"] == {
        "kept": {"neurons": 20, "heads": 2, "hidden": 24},
        "criteria": {"neurons": "error", "heads": "gradient"},
        "rotated": True,
    }
    assert notes["refit"]["matrices"] == 4
    card = (tmp_path / "run" / summary.result.model / "README.md").read_text(encoding="utf-8")
    assert "20 neurons by error, 2 heads by gradient, 24 hidden channels, the first principal components" in card
    priced = plan_recipe(asked, choose_devices([], None))["trainings"][1]
    assert priced["parameters"]["blocks"][0] < 10_000


def test_units_that_cannot_be_chosen_are_refused_before_anything_is_done(
    text: Path, reference_folder: Path, tmp_path: Path
) -> None:
    for widths, said in (({"mlp": 49}, "49 of intermediate_size"), ({"mlp": 20, "importance": "best"}, "'best'")):
        with pytest.raises(InputError, match=said):
            run(recipe(text, reference_folder, **widths), tmp_path / "run")
        assert not (tmp_path / "run" / "data").exists()
