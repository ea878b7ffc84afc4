"""`recovery`: what is decided where a recipe does not say, and runs that do it."""

import math
from pathlib import Path
from typing import Any

import pytest

from conftest import heard, read_json, tiny_recipe
from inheritune.errors import InputError
from inheritune.experiment import plan_recipe, run
from inheritune.experiment.plan import Models
from inheritune.experiment.recovery import Facts, decide_recovery, with_decision
from inheritune.planner import choose_devices
from inheritune.recipe import FIRST_HALF, Recipe, check, dump_recipe, load_recipe
from inheritune.recipe.recovery import DECIDED


def recipe(text: Path, reference: Path | None, recovery: Any = "auto", **train: Any) -> dict[str, Any]:
    """A recipe without the keys that are decided, but for those of `train`."""
    tree = tiny_recipe(text, reference)
    tree["train"] = {"sequence_length": 16, "checkpoint": {"every": "100 steps"}, **train}
    tree["recovery"] = recovery
    tree["inherit"] = {"layers": [0, 1, 3]}
    tree["evaluate"] = {"every": "1000 steps", "sequences": 4, "analyze": False, "prompts": []}
    return tree | {"controls": [], "grow": None, "hardware": {"device": "cpu"}}


def decided(tree: dict[str, Any], tokens: int | None = 1000, memory: float = math.inf) -> Any:
    loaded = check(Recipe, tree, "recipe")
    return decide_recovery(loaded, Models(loaded, drafts=False), Facts(tokens, memory))


def test_text_is_scarce_where_the_training_sees_all_of_it(text: Path, reference_folder: Path) -> None:
    for train, tokens in (({}, 1000), ({"length": "1 epochs"}, 1000), ({"length": "1000 tokens"}, 1000)):
        found = decided(recipe(text, reference_folder, **train), tokens)
        assert found.kind == "distilled"
        assert found.settings["reference.tune"]["length"] == "1 epochs"
        assert found.settings["train.distillation"] == {"student": 0.0, "hidden_states": {"weight": 10.0}}
        assert found.settings["inherit.refit"] == "1000 tokens"  # 62 steps an epoch
        assert ("train.length" in found.settings) == (not train)
    for train in ({"length": "999 tokens"}, {"length": "0.5 epochs"}):
        found = decided(recipe(text, reference_folder, **train), 1000)
        assert found.kind == "plain"
        assert not {"reference.tune", "train.distillation"} & found.settings.keys()
        assert "only a part of the text" in found.reasons[0]


def test_more_epochs_of_less_text(text: Path, reference_folder: Path) -> None:
    epochs = []
    for tokens in (1_000, 20_000, 100_000, 10_000_000):
        found = decided(recipe(text, reference_folder), tokens)
        epochs.append(float(found.settings["train.length"].removesuffix(" epochs")))
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[0] > epochs[-1] == 1


def test_before_the_text_is_known_the_plan_says_what_is_open(text: Path, reference_folder: Path) -> None:
    found = decided(recipe(text, reference_folder), None)
    assert found.settings["train.length"] == "1 epochs"
    assert any("up to 8 where the text turns out to be small" in reason for reason in found.reasons)
    assert not any("refitted" in reason for reason in found.reasons)


def test_a_batch_gives_about_a_thousand_steps(text: Path, reference_folder: Path) -> None:
    for tokens, sequences in ((1_000, 1), (1_000_000, 32), (10**9, 64)):
        found = decided(recipe(text, reference_folder, length="1 epochs"), tokens)
        assert found.settings["train.batch"] == f"{sequences} sequences"
    found = decided(recipe(text, reference_folder, length="1 epochs", micro_batch=8), 1_000)
    assert found.settings["train.batch"] == "8 sequences"


def test_long_trainings_are_not_refitted(text: Path, reference_folder: Path) -> None:
    for length, is_short in (("5 epochs", True), ("6 epochs", False), ("320 steps", True), ("321 steps", False)):
        found = decided(recipe(text, reference_folder, length=length, batch="1 sequences"), 1_000)
        assert ("inherit.refit" in found.settings) == is_short
        assert any("Blocks are not refitted" in reason for reason in found.reasons) != is_short


def test_a_narrower_model_has_a_higher_rate(text: Path, reference_folder: Path) -> None:
    found = decided(recipe(text, reference_folder))
    assert found.settings["train.optimizer.learning_rate"] == pytest.approx(0.35 / 32, rel=0.1)


def test_what_is_written_is_not_decided(text: Path, reference_folder: Path) -> None:
    tree = recipe(text, reference_folder, length="3 epochs", batch="2 sequences", distillation=None)
    tree["reference"] = {"path": str(reference_folder), "tune": None}
    tree["inherit"]["refit"] = "none"
    tree["train"]["optimizer"] = {"weight_decay": 0.0}
    found = decided(tree)
    assert found.settings.keys() == {"train.optimizer.learning_rate"}
    settled = with_decision(check(Recipe, tree, "recipe"), found)
    assert settled.recovery.decides == []
    assert settled.train.optimizer.weight_decay == 0.0
    assert settled.train.optimizer.learning_rate == found.settings["train.optimizer.learning_rate"]
    assert settled.train.distillation is settled.reference.tune is settled.inherit.refit is None


def test_what_has_no_memory_is_skipped(text: Path, reference_folder: Path) -> None:
    tree, parameters = recipe(text, reference_folder) | {"inherit": {"layers": [0]}}, 50_208
    assert "reference.tune" in decided(tree, memory=16 * parameters).settings
    found = decided(tree, memory=16 * parameters - 1)
    assert found.kind == "distilled"
    assert "reference.tune" not in found.settings
    assert "train.distillation" in found.settings
    assert any("The reference is not tuned" in reason for reason in found.reasons)
    found = decided(tree, memory=4 * parameters)
    assert found.kind == "plain"
    assert any("There is no teacher" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("inherit", "lacks"),
    [
        ({"layers": 2, **FIRST_HALF}, {"hidden_states"}),
        ({"layers": 2, "mlp": 0.5}, set()),
        ({"layers": 2, "choose": "stacked"}, {"hidden_states", "inherit.refit"}),
        ({"layers": 2, "choose": "first", "submodules": ["attention"]}, {"inherit.refit"}),
        ({"layers": 4, "choose": "first"}, {"inherit.refit"}),
    ],
)
def test_what_cannot_be_is_not_decided(
    inherit: dict[str, Any], lacks: set[str], text: Path, reference_folder: Path
) -> None:
    found = decided(recipe(text, reference_folder) | {"inherit": inherit})
    taught = found.settings["train.distillation"]["hidden_states"]
    assert (taught is None) == ("hidden_states" in lacks)
    assert ("inherit.refit" not in found.settings) == ("inherit.refit" in lacks)


def test_paper_decides_nothing(text: Path, reference_folder: Path) -> None:
    tree = recipe(text, reference_folder, "paper", length="2 steps")
    loaded = check(Recipe, tree, "recipe")
    assert loaded.recovery.decides == []
    assert loaded.train.distillation is loaded.reference.tune is loaded.inherit.refit is None
    assert str(loaded.train.batch) == "64 sequences"


def test_a_control_that_would_be_the_tuned_reference_stays(text: Path, reference_folder: Path) -> None:
    tree = recipe(text, reference_folder) | {"controls": ["reference-continued"]}
    found = decided(tree)
    assert found.kind == "distilled"
    assert "reference.tune" not in found.settings
    assert with_decision(check(Recipe, tree, "recipe"), found).controls == ["reference-continued"]


def test_a_reference_that_is_made_first_is_not_tuned(text: Path) -> None:
    tree = recipe(text, None)
    tree["inherit"] = {"layers": 1, "choose": "first"}
    loaded = check(Recipe, tree, "recipe")
    assert set(loaded.recovery.decides) == set(DECIDED) - {"reference.tune", "grow.stop_early"}
    assert "reference.tune" not in decided(tree).settings


def test_the_resolved_recipe_decides_the_same(text: Path, reference_folder: Path, write_recipe: Any) -> None:
    import yaml

    loaded = load_recipe(write_recipe(recipe(text, reference_folder, batch="2 sequences")))
    again = check(Recipe, yaml.safe_load(dump_recipe(loaded)), "again")
    assert again == loaded
    assert set(again.recovery.decides) == set(DECIDED) - {"train.batch", "grow.stop_early"}


@pytest.mark.parametrize(
    "recovery",
    ["fast", {"kind": "auto", "decides": ["train.spike"]}, {"kind": "paper", "decides": ["train.batch"]}, 3],
)
def test_no_recovery(recovery: Any, text: Path, reference_folder: Path) -> None:
    with pytest.raises(InputError, match="recovery"):
        check(Recipe, recipe(text, reference_folder, recovery), "recipe")


def test_rounds_end_early_where_there_are_any(text: Path, reference_folder: Path) -> None:
    tree = recipe(text, reference_folder) | {"inherit": {"layers": 1, "choose": "first"}}
    assert "grow.stop_early" not in decided(tree).settings
    assert decided(tree | {"grow": {"by": 1}}).settings["grow.stop_early"] is True
    assert "grow.stop_early" not in decided(tree | {"grow": {"by": 1, "stop_early": False}}).settings
    assert "grow.stop_early" not in decided(tree | {"grow": {"by": 1, "until": "max_layers"}}).settings


@pytest.mark.long
def test_a_run_decides_says_why_and_resumes(
    text: Path, reference_folder: Path, write_recipe: Any, tmp_path: Path
) -> None:
    tree = recipe(text, reference_folder, length="1 epochs")
    tree["data"]["size"] = "2K tokens"
    path, lines = write_recipe(tree), list[str]()
    with heard(lines.append):
        found = run(load_recipe(path), tmp_path / "run")
    decision = read_json(tmp_path / "run" / "recovery.json")
    assert decision["kind"] == "distilled"
    assert any(line.startswith("recovery: distilled. The training sees all of the text") for line in lines)
    assert found.reference.untuned is not None
    assert found.rounds[0].teacher_outputs is not None
    assert read_json(next((tmp_path / "run").glob("rounds/*/inherited.json")))["refit"]["matrices"] > 0
    assert found.rounds[0].steps == 1999 // 16
    assert run(load_recipe(path), tmp_path / "run") == found
    card = (tmp_path / "run" / found.result.model / "README.md").read_text(encoding="utf-8")
    assert "hidden_states" in card


def test_plan_prices_what_is_decided(text: Path, reference_folder: Path) -> None:
    costs = {}
    for kind in ("distilled", "plain"):
        tree = recipe(text, reference_folder, kind, length="1 epochs")
        tree["data"]["size"] = "2K tokens"
        costs[kind] = plan_recipe(check(Recipe, tree, "recipe"), choose_devices())
    names = {kind: [one["name"] for one in cost["trainings"]] for kind, cost in costs.items()}
    assert names["distilled"] == names["plain"]
    by_kind = {kind: {one["name"]: one for one in cost["trainings"]} for kind, cost in costs.items()}
    assert by_kind["distilled"]["reference"]["flops"] > by_kind["plain"]["reference"]["flops"]
    assert costs["distilled"]["recovery"]["kind"] == "distilled"
