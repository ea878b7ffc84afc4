"""Plans without weights: names and shapes in, lines out."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inheritune.arch import Rescale, Structure, as_runs
from inheritune.errors import InputError
from inheritune.inheritance import Plan, TensorCopy, describe_plan, narrowed, plan_copies, plan_rows

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
FIRST = {**AROUND, "model.layers.0.attention.weight": (4, 4)}
TWO = {
    **AROUND,
    "model.layers.0.attention.weight": (4, 4),
    "model.layers.0.attention.bias": (4,),
    "model.layers.1.attention.weight": (4, 4),
}


def line_of(plan: Plan, target: str) -> TensorCopy:
    (found,) = (line for line in plan.lines if line.target == target)
    return found


def test_blocks_go_to_their_places_and_the_rest_by_name() -> None:
    plan = plan_copies(SOURCE, TWO, STRUCTURE, [1, 2])
    assert plan.kept == (1, 2)
    assert plan.total == 3
    assert set(plan.lines) == {
        TensorCopy("model.embed.weight", (9, 4), "model.embed.weight"),
        TensorCopy("model.layers_norm.weight", (4,), "model.layers_norm.weight"),
        TensorCopy("head.weight", (9, 4), "head.weight"),
        TensorCopy("model.layers.0.attention.weight", (4, 4), "model.layers.1.attention.weight"),
        TensorCopy("model.layers.0.attention.bias", (4,), "model.layers.1.attention.bias"),
        TensorCopy("model.layers.1.attention.weight", (4, 4), "model.layers.2.attention.weight"),
    }
    assert len(plan.lines) == 6
    assert plan.dropped == ("model.layers.0.attention.weight",)
    assert plan.is_whole
    assert describe_plan(plan) == {
        "blocks": [1, 2], "of": 3, "tensors_copied": 6, "tensors_fresh": 0, "tensors_dropped": 1,
    }  # fmt: skip


def test_what_is_not_inherited_is_new_and_said() -> None:
    plan = plan_copies(
        SOURCE,
        TWO,
        STRUCTURE,
        [1, 2],
        inherited=frozenset(["model.embed.weight", "model.layers.0.attention.bias"]),
    )
    assert {line.target for line in plan.lines if line.source} == {
        "model.embed.weight",
        "model.layers.0.attention.bias",
    }
    assert plan.fresh == (
        "model.layers_norm.weight", "head.weight", "model.layers.0.attention.weight", "model.layers.1.attention.weight",
    )  # fmt: skip
    assert set(plan.dropped) == SOURCE.keys() - {"model.embed.weight", "model.layers.1.attention.bias"}
    assert not plan.is_whole


def test_one_block_can_go_to_two_places() -> None:
    target = {**FIRST, "model.layers.1.attention.weight": (4, 4)}
    plan = plan_copies(SOURCE, target, STRUCTURE, [2, 2])
    assert plan.wanted()["model.layers.2.attention.weight"] == (
        "model.layers.0.attention.weight", "model.layers.1.attention.weight",
    )  # fmt: skip
    assert plan.wanted()["head.weight"] == ("head.weight",)


def test_a_tied_tensor_is_one_line() -> None:
    plan = plan_copies(SOURCE, FIRST, STRUCTURE, [0], tied={"head.weight": "model.embed.weight"})
    assert [line.target for line in plan.lines].count("head.weight") == 0
    assert plan.tied == (("head.weight", "model.embed.weight"),)
    assert "head.weight" not in plan.dropped


def test_parts_and_factors_are_said_in_words() -> None:
    rescale = Rescale("attention.weight", 1, 0, 2, 0.5)
    plan = plan_copies(SOURCE, FIRST, STRUCTURE, [2], rescales={"model.layers.0.attention.weight": rescale})
    assert line_of(plan, "model.layers.0.attention.weight").rescale == rescale
    assert not plan.is_whole
    whole = {name: tuple(((0, length),) for length in shape) for name, shape in FIRST.items()}
    parts = whole | {"model.embed.weight": (((0, 9),), ((0, 1), (3, 4)))}
    half = narrowed(plan, parts)
    assert line_of(half, "model.embed.weight") == TensorCopy(
        "model.embed.weight", (9, 2), "model.embed.weight", (((0, 9),), ((0, 1), (3, 4)))
    )
    assert line_of(half, "head.weight").indices is None
    rows = {row["target"]: row for row in plan_rows(half, bytes_each=2)}
    assert rows["model.embed.weight"]["slice"] == "[0:9, 0:1+3:4]"
    assert rows["model.embed.weight"]["bytes"] == 9 * 2 * 2
    assert rows["model.layers.0.attention.weight"]["slice"] == "all x 0.5 at 0:2 of dimension 1"
    assert rows["head.weight"]["slice"] == "all"
    json.dumps(list(rows.values()))


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
    assert all(line.source == line.target for line in plan.lines)
    assert [line.target for line in plan.lines] == list(SOURCE)


def test_a_tensor_with_slices_for_all_blocks_keeps_those_of_the_kept_ones() -> None:
    packed = "embed_tokens_per_layer.weight"
    source, target = SOURCE | {packed: (5, 12)}, FIRST | {packed: (5, 4)}
    plan = plan_copies(source, target, STRUCTURE, [2])
    assert line_of(plan, packed) == TensorCopy(packed, (5, 4), packed, (((0, 5),), ((8, 12),)))
    halves = {name: tuple(((0, length // 2),) for length in shape) for name, shape in target.items()}
    both = narrowed(plan, halves | {packed: (((0, 5),), ((1, 2), (3, 4)))})
    assert line_of(both, packed) == TensorCopy(packed, (5, 2), packed, (((0, 5),), ((9, 10), (11, 12))))


@given(data=st.data(), size=st.integers(1, 12))
def test_parts_of_parts_are_those_of_plain_indexing(data: st.DataObject, size: int) -> None:
    """A slice for each block, narrower blocks, and a rescaled slice, against lists of numbers."""
    taken = data.draw(st.lists(st.integers(0, 3 * size - 1), min_size=size, max_size=size, unique=True))
    part = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    line = TensorCopy("t", (size,), "s", (as_runs(taken),), Rescale("t", 0, start, stop, 2.0))
    (found,) = narrowed(Plan((0,), 1, (line,), ()), {"t": (as_runs(part),)}).lines
    entries = range(3 * size) if found.indices is None else [i for a, b in found.indices[0] for i in range(a, b)]
    assert list(entries)[: len(part)] == [taken[place] for place in part] or len(part) == size
    assert found.rescale is not None
    expected = [place for place, old in enumerate(part) if start <= old < stop]
    assert list(range(found.rescale.start, found.rescale.stop)) == expected or not expected


def test_experts_in_a_list_come_from_others_of_the_list() -> None:
    lines = tuple(TensorCopy(f"experts.{k}.w", (4,), f"layers.2.experts.{k}.w") for k in range(3))
    plan = narrowed(
        Plan((2,), 3, lines, ()),
        {f"experts.{k}.w": (((0, 4),),) for k in range(2)},
        {"experts.0.w": "experts.0.w", "experts.1.w": "experts.2.w"},
    )
    assert [(line.target, line.source) for line in plan.lines] == [
        ("experts.0.w", "layers.2.experts.0.w"), ("experts.1.w", "layers.2.experts.2.w"),
    ]  # fmt: skip
    assert plan.dropped == ("layers.2.experts.1.w",)


def test_a_tensor_can_be_filled_with_a_value() -> None:
    target = FIRST | {"model.layers.0.attention.extra": (4,)}
    values = {"model.layers.0.attention.extra": 0.0}
    plan = plan_copies(SOURCE, target, STRUCTURE, [0], values=values)
    assert line_of(plan, "model.layers.0.attention.extra") == TensorCopy(
        "model.layers.0.attention.extra", (4,), None, value=0.0
    )
    assert plan.fresh == ()
    assert plan.unstored == {"model.layers.0.attention.extra"}
    assert not plan.is_whole
