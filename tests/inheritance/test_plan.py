"""Plans without weights: names and shapes in, copies out."""

import pytest

from inheritune.arch import Structure
from inheritune.errors import InputError
from inheritune.inheritance import Copy, describe_plan, plan_copies

STRUCTURE = Structure("model.layers", 3)
SOURCE = {
    "model.embed.weight": (9, 4),
    "model.layers.0.attention.weight": (4, 4),
    "model.layers.1.attention.weight": (4, 4),
    "model.layers.1.attention.bias": (4,),
    "model.layers.2.attention.weight": (4, 4),
    "model.layers_norm.weight": (4,),  # begins like the blocks and is none
    "head.weight": (9, 4),
}
AROUND = {"model.embed.weight": (9, 4), "model.layers_norm.weight": (4,), "head.weight": (9, 4)}


def test_blocks_go_to_their_places_and_the_rest_by_name() -> None:
    target = {
        **AROUND,
        "model.layers.0.attention.weight": (4, 4),
        "model.layers.0.attention.bias": (4,),
        "model.layers.1.attention.weight": (4, 4),
    }
    plan = plan_copies(SOURCE, target, STRUCTURE, [1, 2])
    assert plan.kept == (1, 2)
    assert plan.total == 3
    assert set(plan.copies) == {
        Copy("model.embed.weight", "model.embed.weight", (9, 4)),
        Copy("model.layers_norm.weight", "model.layers_norm.weight", (4,)),
        Copy("head.weight", "head.weight", (9, 4)),
        Copy("model.layers.0.attention.weight", "model.layers.1.attention.weight", (4, 4)),
        Copy("model.layers.0.attention.bias", "model.layers.1.attention.bias", (4,)),
        Copy("model.layers.1.attention.weight", "model.layers.2.attention.weight", (4, 4)),
    }
    assert len(plan.copies) == 6
    assert plan.dropped == ("model.layers.0.attention.weight",)
    assert describe_plan(plan) == {"blocks": [1, 2], "of": 3, "tensors_copied": 6, "tensors_dropped": 1}


FIRST = {**AROUND, "model.layers.0.attention.weight": (4, 4)}


@pytest.mark.parametrize(
    ("target", "kept", "said"),
    [
        (
            {**FIRST, "model.layers.0.attention.bias": (4,)},
            [0],
            r"model\.layers\.0\.attention\.bias: the reference has no tensor for it; choose blocks",
        ),
        ({**FIRST, "model.extra.weight": (1,)}, [0], r"model\.extra\.weight: the reference has no tensor for it"),
        (
            {**AROUND, "model.layers.0.attention.weight": (4, 8)},
            [2],
            r"model\.layers\.0\.attention\.weight: has shape \(4, 8\), its source "
            r"model\.layers\.2\.attention\.weight \(4, 4\)",
        ),
        ({**FIRST, "head.weight": (8, 4)}, [0], r"head\.weight: has shape \(8, 4\), its source head\.weight \(9, 4\)"),
        (
            {name: shape for name, shape in FIRST.items() if name != "head.weight"},
            [0],
            r"head\.weight: would be left behind",
        ),
        (
            {**AROUND, "model.layers.0.attention.weight": (4, 4)},  # block 1 has a bias too
            [1],
            r"model\.layers\.1\.attention\.bias: would be left behind",
        ),
    ],
    ids=["no source", "no source outside the blocks", "other shape", "other head", "head left", "part of a block left"],
)
def test_what_does_not_fit_is_named(target: dict[str, tuple[int, ...]], kept: list[int], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        plan_copies(SOURCE, target, STRUCTURE, kept)
    assert "\n" not in str(caught.value)


def test_a_plan_of_all_blocks_drops_nothing() -> None:
    plan = plan_copies(SOURCE, SOURCE, STRUCTURE, [0, 1, 2])
    assert plan.dropped == ()
    assert all(copy.source == copy.target for copy in plan.copies)
    assert [copy.target for copy in plan.copies] == list(SOURCE)
