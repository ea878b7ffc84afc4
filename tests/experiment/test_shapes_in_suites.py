"""Arms of a size or a speed: the shape is found when the arm is trained, and a random arm can have the same."""

from pathlib import Path
from typing import Any

import pytest

from conftest import read_json, tiny_recipe
from inheritune import compare
from inheritune.arch import build_skeleton, load_config, training_flops_per_token
from inheritune.errors import InputError
from inheritune.experiment import Suite, plan_recipe, plan_suite
from inheritune.inheritance import TargetSpec, target_config
from inheritune.planner import choose_devices
from inheritune.recipe import Recipe, check
from inheritune.results import ShapeChoice
from tiny_suites import tiny_suite

ARMS: list[dict[str, Any]] = [
    {"name": "depth", "start": {"kind": "inherit", "size": 0.7, "shape": "depth"}},
    {"name": "fast", "start": {"kind": "inherit", "speed": "1.2x training", "shape": "depth"}},
    {"name": "auto", "start": {"kind": "inherit", "size": 0.7}},
    {"name": "random", "start": {"kind": "random", "of": "auto"}},
]


@pytest.mark.long
def test_shapes_are_found_and_random_weights_can_have_them(text: Path, reference_folder: Path, tmp_path: Path) -> None:
    found = compare(tiny_suite(text, reference_folder, ARMS), tmp_path / "out")
    arms = {arm.name: arm for arm in found.arms}
    most = 0.7 * found.reference.parameters
    assert arms["depth"].parameters <= most
    place = tmp_path / "out" / "arms"
    shape = ShapeChoice.read(place / "auto" / "seed-1" / "shape.json")
    assert arms["auto"].parameters == shape.best.parameters == arms["random"].parameters <= most
    assert arms["auto"].layers == shape.best.layers == arms["random"].layers
    assert shape.reference is not None
    assert shape.reference.parameters == found.reference.parameters
    fast = ShapeChoice.read(place / "fast" / "seed-1" / "shape.json")
    assert fast.best.layers == arms["fast"].layers
    assert arms["auto"].random == "random"
    started = read_json(place / "random" / "seed-1" / "request.json")["start"]
    assert (started["of"], started["submodules"]) == ("auto", "none")


@pytest.mark.long
def test_they_are_priced_as_whole_blocks(text: Path, reference_folder: Path) -> None:
    suite = check(Suite, tiny_suite(text, reference_folder, ARMS), "suite")
    priced = {one["name"]: one["blocks"] for one in plan_suite(suite, choose_devices([], None))["trainings"]}
    assert priced["auto"] == priced["depth"] == priced["random"] > 1


def test_a_speed_is_priced_by_flops(text: Path, reference_folder: Path) -> None:
    """As many whole blocks as have the FLOPs for it."""
    for speed in ("1.3x", "2x training"):
        tree = tiny_recipe(text, reference_folder) | {"inherit": {"speed": speed}, "grow": None, "controls": []}
        asked = check(Recipe, tree, "recipe")
        priced = plan_recipe(asked, choose_devices([], None))["trainings"]
        (blocks,) = [one["blocks"] for one in priced if one["name"].startswith("round")]
        config = load_config(asked.reference)
        flops = [
            training_flops_per_token(build_skeleton(target_config(config, TargetSpec(tuple(range(count))))), 64)
            for count in range(1, config.num_hidden_layers + 1)
        ]
        times = float(speed.partition("x")[0])
        assert blocks == sum(one * times <= flops[-1] for one in flops) > 0


@pytest.mark.parametrize(
    ("start", "said"),
    [
        ({"kind": "random", "of": "auto", "mlp": 20}, "of gives the whole shape, mlp included; give one or the other"),
        ({"kind": "inherit", "size": 0.5, "layers": 2}, "size decides about layers"),
        ({"kind": "inherit", "layers": "2 GB"}, "write size: 2 GB and shape: depth in place of layers"),
    ],
)
def test_starts_that_cannot_be(start: dict[str, Any], said: str, text: Path, reference_folder: Path) -> None:
    with pytest.raises(InputError, match=said):
        check(Suite, tiny_suite(text, reference_folder, [{"name": "a", "start": start}]), "suite")
