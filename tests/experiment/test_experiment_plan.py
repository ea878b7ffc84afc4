"""The plan of a suite or a recipe: one list of stages, which is checked, priced and run."""

from pathlib import Path
from typing import Any

import pytest

from conftest import tiny_recipe
from inheritune.errors import InputError
from inheritune.experiment import Suite, plan_recipe, plan_suite
from inheritune.experiment.checks import plan_checked
from inheritune.experiment.plan import Models, PlannedArm, in_order, plan_arms, plan_rounds, stage_trainings
from inheritune.experiment.stage import Stage
from inheritune.experiment.suite import ArmSettings
from inheritune.planner import choose_devices
from inheritune.recipe import FIRST_HALF, HALF, Recipe, Training
from inheritune.runtime import Runtime
from tiny_suites import make_reference, tiny_suite

STARTS: dict[str, Any] = {
    "inherit": {"kind": "inherit", "layers": [0, 2, 5], "submodules": ["attention"]},
    "lazy": "lazy", "half width": "half-width", "further": "reference", "distilbert": "distilbert",
    "auto": {"kind": "inherit", "choose": "auto"}, "random": "random", "hybrid": {"kind": "hybrid-stacking", "layers": 8},
    "stacking": {"kind": "stacking", "layers": 8}, "grown": {"kind": "growth", "layers": 1, "grow": {"max_layers": 4}},
    "narrow": {"kind": "random", **HALF},
    "stacked": {"kind": "stacking", "layers": 6, "of": "random"}, "of lazy": {"kind": "inherit", "layers": 2, "of": "lazy"},
}  # fmt: skip


@pytest.fixture(scope="module")
def suite(text: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Suite:
    """Every method, a teacher, and arms of arms, the later ones first."""
    reference = make_reference(tmp_path_factory.mktemp("model"), tokenizer)
    arms: list[Any] = [{"name": name, "start": start, "allow_unequal": "a test"} for name, start in STARTS.items()]
    arms[0] |= {"teacher": "of lazy", "train": {"distillation": {}}}
    return Suite.model_validate(tiny_suite(text, reference, arms))


def facts(arm: PlannedArm) -> dict[str, Any]:
    """All that is decided of an arm, its configs as plain data."""
    configs = [(one.source.to_dict(), one.target.to_dict()) for one in arm.stages]
    return {
        "name": arm.name, "training": arm.training, "depth": arm.depth, "needs": arm.needs, "source": arm.source,
        "start": arm.start, "stages": [one.stage for one in arm.stages], "configs": configs,
        "teacher": arm.teacher and arm.teacher.to_dict(),
    }  # fmt: skip


@pytest.mark.long
def test_what_is_checked_is_what_is_priced(suite: Suite) -> None:
    """Targets that are built without weights have the configs that pricing computes from configs alone."""
    checked = plan_checked(suite, Runtime("cpu", 1))
    priced = plan_arms(suite, Models(suite, drafts=False))
    assert [facts(arm) for arm in checked] == [facts(arm) for arm in priced]
    assert {arm.name for arm in checked} == STARTS.keys()
    trainings = plan_suite(suite, choose_devices(["L4"]))["trainings"][1:]
    for arm in checked:
        mine = [each for each in trainings if f"{each['name']}, ".startswith(f"{arm.name}, ")]
        assert [each["blocks"] for each in mine] == [len(one.stage.blocks) for one in arm.stages]
        assert [one.target.num_hidden_layers for one in arm.stages] == [each["blocks"] for each in mine]


def test_arms_are_planned_with_the_models_that_they_start_from(suite: Suite) -> None:
    arms = {arm.name: arm for arm in plan_arms(suite, Models(suite, drafts=False))}
    assert arms["of lazy"].stages[0].source is arms["lazy"].stages[0].target
    assert arms["stacked"].stages[0].source is arms["random"].stages[0].target
    assert arms["stacking"].stages[1].source is arms["stacking"].stages[0].target
    assert (arms["stacked"].source, arms["stacked"].counts_source, arms["of lazy"].counts_source) == (
        "random",
        True,
        False,
    )
    assert arms["inherit"].needs == ("of lazy",)
    assert arms["inherit"].teacher is arms["of lazy"].stages[-1].target
    assert [name for name, arm in arms.items() if not arm.needs_reference_only] == ["of lazy", "inherit", "stacked"]
    assert [arm.stages[0].stage.is_provisional for arm in (arms["auto"], arms["lazy"])] == [True, False]


@pytest.mark.long
@pytest.mark.parametrize("changes", [
    {"inherit": {"layers": 2, **FIRST_HALF}}, {"inherit": {"layers": 1, "choose": "auto"}}, {"grow": None},
    {"grow": {"by": 1, "until": "max_layers", "max_layers": 3, "start": "trained", "function_preserving": True}},
], ids=str)  # fmt: skip
def test_rounds_are_priced_as_they_are_checked(text: Path, reference_folder: Path, changes: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(tiny_recipe(text, reference_folder) | changes)
    drafted, models = (Models(recipe, drafts=drafts) for drafts in (True, False))
    inherit, stages = plan_rounds(recipe, models)
    assert plan_rounds(recipe, drafted) == (inherit, stages)
    for one, other in zip(
        models.planned(models.reference, stages), drafted.planned(drafted.reference, stages), strict=True
    ):
        assert one.target.to_dict() == other.target.to_dict()
    rounds = [each for each in plan_recipe(recipe, choose_devices(["L4"]))["trainings"] if "round" in each["name"]]
    assert [(each["name"], each["blocks"]) for each in rounds] == [(one.name, len(one.blocks)) for one in stages]


def test_stages_share_the_steps_of_their_arm() -> None:
    training = Training.model_validate({"length": "7 steps"})
    shared = [Stage([0], share=0.5), Stage([0], share=0.5)]
    assert [one.length.count for one in stage_trainings(training, shared, 7)] == [3, 4]
    assert stage_trainings(training, [Stage([0])] * 2, 7) == [training, training]
    with pytest.raises(
        InputError, match=r"start\.first_stage: a stage gets 0 of 1 steps; give each stage a step or more"
    ):
        stage_trainings(training, shared, 1)


def arm(start: Any, name: str = "it", **more: Any) -> ArmSettings:
    return ArmSettings.model_validate({"name": name, "start": start, **more})


def test_arms_come_after_those_that_they_need() -> None:
    arms = [
        arm({"kind": "stacking", "of": "small"}, "stacked"),
        arm("inherit", "taught", teacher="stacked", train={"distillation": {}}),
        arm({"kind": "random", "layers": 2}, "small"),
        arm({"kind": "inherit", "of": "some/model"}, "other"),
    ]
    assert [found.name for found in in_order(arms)] == ["small", "stacked", "taught", "other"]


def test_a_circle_names_its_arms() -> None:
    arms = [
        arm({"kind": "inherit", "of": "b"}, "a"),
        arm({"kind": "inherit", "of": "c"}, "b"),
        arm("inherit", "c", teacher="a"),
    ]
    with pytest.raises(InputError, match="arm a: needs its own result: a needs b needs c needs a"):
        in_order(arms)
