from typing import Any

import pytest

from inheritune.errors import InputError
from inheritune.experiment.methods import METHODS
from inheritune.experiment.methods.distilbert import distilbert_blocks
from inheritune.experiment.plan import in_order
from inheritune.experiment.suite import ArmSettings


def arm(start: Any, name: str = "it", **more: Any) -> ArmSettings:
    return ArmSettings.model_validate({"name": name, "start": start, **more})


def blocks(start: Any, total: int, default: int = 4) -> Any:
    method = arm(start).start
    return method.stages(method.depth(default, total), total)[-1].blocks


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("inherit", [0, 1, 2, 3]),
        ({"kind": "inherit", "layers": 3, "choose": "middle"}, [2, 3, 4]),
        ({"kind": "inherit", "layers": [0, 2, 7]}, [0, 2, 7]),
        ({"kind": "inherit", "layers": "half", "choose": "every"}, [0, 2, 4, 6]),
        ("lazy", [4, 5, 6, 7]),
        ("hybrid-stacking", [0, 1, 0, 1]),
        ("half-width", list(range(8))),
        ("reference", list(range(8))),
        ("distilbert", [0, 2, 4, 6]),
        ({"kind": "distilbert", "layers": 6}, [0, 2, 4, 6, 6, 7]),
        ({"kind": "random", "layers": 10 // 2}, [0, 1, 2, 3, 4]),
    ],
)
def test_the_blocks_of_a_start(start: Any, expected: list[int]) -> None:
    assert blocks(start, 8) == expected


def test_what_comes_along() -> None:
    for start, submodules, width in (
        ("inherit", "all", "full"), ("random", "none", "full"), ("half-width", "all", "half"), ("lazy", "all", "full"),
    ):  # fmt: skip
        spec = arm(start).start.stages(4, 8)[-1].spec
        assert (spec.submodules, spec.width) == (submodules, width)
    first, second = arm("stacking").start.stages(6, 8)
    assert (first.weights, first.blocks, first.share) == ("random", [0, 1, 2], 0.5)
    assert (second.weights, second.blocks, second.after_previous) == ("inherit", [0, 1, 2, 0, 1, 2], True)


def test_methods_register_themselves() -> None:
    assert sorted(METHODS) == [
        "distilbert", "growth", "half-width", "hybrid-stacking", "inherit", "lazy", "random", "reference", "stacking",
    ]  # fmt: skip
    for kind, method in METHODS.items():
        assert method().kind == kind
        assert method.__doc__


def test_the_distilbert_style_start_of_the_paper() -> None:
    """Figure 17: 16 of 24 blocks, every other one and then 18 to 21."""
    assert distilbert_blocks(16, 24) == [*range(0, 24, 2), 18, 19, 20, 21]


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"kind": "inherit", "layers": 9}, "9 blocks asked for, the reference has 8"),
        ({"kind": "lazy", "layers": 9}, "9 blocks asked for"),
        ({"kind": "stacking", "layers": 5}, "give an even number"),
        ({"kind": "hybrid-stacking", "layers": 5}, "give an even number"),
        ({"kind": "stacking", "layers": 18}, "give at most 16"),
    ],
)
def test_starts_that_cannot_be(start: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        blocks(start, 8)


def test_arms_come_behind_those_that_they_need() -> None:
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
