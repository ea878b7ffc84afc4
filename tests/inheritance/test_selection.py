from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.errors import InputError
from inheritune.inheritance import count_layers, inherit_settings, select_blocks

TOTALS = st.integers(1, 120)
CHOICES = st.sampled_from(["first", "last", "middle", "ends", "every"])
FRACTIONS = st.floats(0, 1, exclude_min=True)


@st.composite
def wishes(draw: st.DrawFn) -> tuple[int | float, int]:
    """A number or a fraction of blocks, with how many there are."""
    total = draw(TOTALS)
    return draw(st.integers(1, total) | FRACTIONS), total


@settings(deadline=None)
@given(wishes(), CHOICES)
def test_selection_rises_within_the_reference_and_has_the_count(spec: tuple[int | float, int], choose: Any) -> None:
    layers, total = spec
    kept = select_blocks(layers, choose, total)
    assert len(kept) == count_layers(layers, total)
    assert all(left < right for left, right in pairwise(kept))
    assert kept[0] >= 0
    assert kept[-1] < total


@settings(deadline=None)
@given(TOTALS, st.data())
def test_a_number_is_taken_as_it_is(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, total))
    assert count_layers(count, total) == count


@settings(deadline=None)
@given(TOTALS, FRACTIONS)
def test_a_fraction_is_rounded_to_the_nearest(total: int, fraction: float) -> None:
    count = count_layers(fraction, total)
    assert 1 <= count <= total
    # the product itself is rounded to a float before it is rounded to a whole number
    assert count == 1 or abs(count - Fraction(fraction) * total) <= Fraction(1, 2) + Fraction(1, 10**12)


@pytest.mark.parametrize(
    ("fraction", "total", "count"), [(0.5, 26, 13), (0.5, 3, 2), (0.5, 5, 3), (0.25, 5, 1), (0.001, 4, 1), (1.0, 7, 7)]
)
def test_halves_go_up_and_at_least_one_stays(fraction: float, total: int, count: int) -> None:
    assert count_layers(fraction, total) == count


@settings(deadline=None)
@given(TOTALS, st.data(), CHOICES)
def test_a_list_is_taken_as_it_is(total: int, data: st.DataObject, choose: Any) -> None:
    blocks = sorted(data.draw(st.sets(st.integers(0, total - 1), min_size=1)))
    assert select_blocks(blocks, choose, total) == blocks
    assert count_layers(blocks, total) == len(blocks)


@settings(deadline=None)
@given(TOTALS, st.integers(1, 10), CHOICES)
def test_more_than_there_are_is_an_error(total: int, more: int, choose: Any) -> None:
    said = f"{total + more} blocks asked for, the reference has {total}; give at most {total}"
    with pytest.raises(InputError, match=said):
        select_blocks(total + more, choose, total)
    with pytest.raises(InputError, match=f"some.place: {said}"):
        count_layers(total + more, total, "some.place")


@settings(deadline=None)
@given(TOTALS, st.data())
def test_a_block_that_is_not_there_is_an_error(total: int, data: st.DataObject) -> None:
    beyond = data.draw(st.integers(total, total + 50) | st.integers(-5, -1))
    blocks = sorted({0, beyond})
    with pytest.raises(InputError, match=rf"inherit\.layers: block {beyond} is not there.*legal are 0 to {total - 1}"):
        select_blocks(blocks, "first", total)


@settings(deadline=None)
@given(wishes())
def test_choices_take_the_place_they_name(spec: tuple[int | float, int]) -> None:
    layers, total = spec
    count = count_layers(layers, total)
    assert select_blocks(layers, "first", total) == list(range(count))
    assert select_blocks(layers, "last", total)[-count:] == list(range(total))[-count:]
    middle = select_blocks(layers, "middle", total)
    assert middle == list(range(middle[0], middle[0] + count))
    before, after = middle[0], total - 1 - middle[-1]
    assert 0 <= after - before <= 1
    ends = select_blocks(layers, "ends", total)
    tail = count // 5 if count >= 5 else int(count >= 2)
    assert ends == [*range(count - tail), *range(total - tail, total)]


def test_ends_of_a_model_of_26() -> None:
    assert select_blocks(13, "ends", 26) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 24, 25]


def test_ends_have_the_last_block_from_two_blocks_on() -> None:
    chosen = [select_blocks(count, "ends", 6) for count in range(1, 7)]
    assert chosen[:4] == [[0], [0, 5], [0, 1, 5], [0, 1, 2, 5]]
    assert chosen[4:] == [[0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("total", [2, 7, 26])
def test_ends_grow_without_losing_a_block(total: int) -> None:
    chosen = [set(select_blocks(count, "ends", total)) for count in range(1, total + 1)]
    assert all(fewer < more for fewer, more in pairwise(chosen))


@settings(deadline=None)
@given(wishes())
def test_every_kth_begins_at_0_with_even_steps(spec: tuple[int | float, int]) -> None:
    layers, total = spec
    kept = select_blocks(layers, "every", total)
    assert kept[0] == 0
    steps = {right - left for left, right in pairwise([*kept, total])}
    assert max(steps) - min(steps) <= 1
    if total % len(kept) == 0:
        assert steps == {total // len(kept)}


@settings(deadline=None)
@given(TOTALS, st.data())
def test_stacked_is_the_first_blocks_twice(total: int, data: st.DataObject) -> None:
    """Also deeper than the reference: a model of n/2 blocks on top of itself has n (paper, stacking)."""
    half = data.draw(st.integers(1, total))
    assert select_blocks(2 * half, "stacked", total) == [*range(half), *range(half)]
    with pytest.raises(InputError, match=f"{2 * half - 1} blocks cannot be the same blocks twice; give an even number"):
        select_blocks(2 * half - 1, "stacked", total)
    with pytest.raises(InputError, match=f"give at most {2 * total}"):
        select_blocks(2 * total + 2, "stacked", total)


MEASURED_CHOICES = st.sampled_from(["auto", "rank", "influence", "loss"])


@settings(deadline=None)
@given(
    st.integers(1, 40).flatmap(lambda total: st.tuples(st.permutations(range(total)), st.integers(1, total))),
    MEASURED_CHOICES,
)
def test_a_measured_choice_is_what_its_order_leaves(drawn: tuple[list[int], int], choose: Any) -> None:
    order, count = drawn
    kept = select_blocks(count, choose, len(order), dropped=order)
    assert kept == sorted(order[len(order) - count :])
    # growth puts back what was dropped last, at its place
    if count < len(order):
        deeper = select_blocks(count + 1, choose, len(order), dropped=order)
        assert set(deeper) - set(kept) == {order[len(order) - count - 1]}
        assert set(kept) < set(deeper)


def test_a_measured_choice_needs_its_order() -> None:
    with pytest.raises(
        InputError, match="choose: auto: it looks at the model at work on text, and there is none here; give"
    ):
        select_blocks(2, "auto", 4)
    with pytest.raises(InputError, match="1 blocks, and the order drops only 2; choose anew"):
        select_blocks(1, "auto", 4, dropped=[3, 1])
    assert select_blocks(2, "auto", 4, dropped=[3, 1]) == [0, 2]
    assert select_blocks([1, 2], "first", 4) == [1, 2]


def test_a_size_in_place_of_layers_is_an_error_that_says_what_to_write() -> None:
    said = "80M parameters is a size; write size: 80M parameters and shape: depth in place of layers"
    with pytest.raises(InputError, match=said):
        inherit_settings("80M parameters")
