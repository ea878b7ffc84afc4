"""The search for blocks to drop against greedy searches that try everything."""

from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

import pytest
import torch
from forward import as_rows, some_tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from test_partial import losses_by_hand
from tiny_families import build

import inheritune
from inheritune.analysis import Trials
from inheritune.analysis.order import order_by, seams_made, search
from inheritune.errors import InputError

Loss = Callable[[frozenset[int]], float]


class Made:
    """Trials with a made-up loss of the set of blocks dropped, on one token."""

    def __init__(self, total: int, loss: Loss) -> None:
        self.kept, self.loss, self.runs = list(range(total)), loss, 0
        self.total, self.parts = total, 1
        self.whole_loss = loss(frozenset())

    def rises(self, block: int, part: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.runs += 1
        gone = frozenset(range(self.total)) - frozenset(self.kept)
        after = torch.tensor([self.loss(gone | {block})], dtype=torch.float64)
        return after - self.loss(gone), after - self.whole_loss

    def influence(self, block: int) -> float:
        return float(-block)  # says nothing of what the blocks are worth

    def drop(self, block: int) -> None:
        self.kept.remove(block)

    def recover(self) -> None:
        pass


def until(least: int) -> Callable[[list[int]], bool]:
    return lambda kept: len(kept) <= least


def anything(kept: list[int]) -> bool:
    return bool(kept)


def found(trials: Any, least: int, allowed: Callable[[list[int]], bool] = anything) -> list[int]:
    return [one.block for one in search(trials, until(least), allowed)]


def seams(kept: list[int], total: int) -> int:
    return sum(after - before != 1 for before, after in pairwise([-1, *kept, total]))


def greedy(total: int, loss: Loss, least: int) -> tuple[list[int], int]:
    """Every block tried in every round: the order, and how many trials that took."""
    gone: list[int] = []
    tried = count()
    while total - len(gone) > least:
        kept = [block for block in range(total) if block not in gone]
        counted = {}
        for block in kept:
            next(tried)
            increase = loss(frozenset([*gone, block])) - loss(frozenset(gone))
            made = seams([other for other in kept if other != block], total) - seams(kept, total)
            counted[block] = increase + made * abs(increase) / 2
        gone.append(min(counted, key=lambda block: counted[block]))
    return gone, next(tried)


WEIGHTS = st.lists(st.floats(0.001, 10), min_size=2, max_size=14, unique=True)


@settings(deadline=None, max_examples=150)
@given(WEIGHTS, st.floats(1, 3), st.data())
def test_where_blocks_matter_more_the_fewer_they_are_it_is_the_greedy_search(
    weights: list[float], power: float, data: st.DataObject
) -> None:
    """A convex function of a sum: each block's increase rises with every other that is dropped."""
    total, least = len(weights), data.draw(st.integers(1, len(weights)))

    def loss(gone: frozenset[int]) -> float:
        return float(sum(weights[block] for block in gone) ** power)

    trials = Made(total, loss)
    order = search(trials, until(least), anything)  # type: ignore[arg-type]
    expected, tried = greedy(total, loss, least)
    # of losses that are the same in floats either block may go
    assert [one.loss for one in order] == pytest.approx(
        [loss(frozenset(expected[: n + 1])) for n in range(len(expected))]
    )
    assert trials.runs <= tried
    assert sorted(trials.kept) == sorted(set(range(total)) - {one.block for one in order})


def test_it_takes_fewer_trials() -> None:
    weights = [(7 * n) % 31 + 0.5 for n in range(30)]

    def loss(gone: frozenset[int]) -> float:
        return sum(weights[block] for block in gone) ** 1.2

    trials = Made(30, loss)
    expected, tried = greedy(30, loss, 15)
    assert found(trials, 15) == expected
    assert tried == sum(range(16, 31))
    assert trials.runs <= 30 + 14 * 8  # all in the first round, four by either order in each of the others
    assert trials.runs < tried / 2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_with_a_model_it_is_the_greedy_search_over_inherited_targets(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inheritune")
    model, tokens_BT = build(kind), some_tokens(3, 11)
    mean: dict[frozenset[int], float] = {}

    def loss(gone: frozenset[int]) -> float:
        if gone not in mean:
            target = inheritune.inherit(model, [block for block in range(4) if block not in gone]).eval()
            mean[gone] = sum(losses_by_hand(target, tokens_BT)) / 3
        return mean[gone]

    expected, _ = greedy(4, loss, 1)
    order = search(Trials(model, as_rows(tokens_BT)), until(1), anything)
    assert [one.block for one in order] == expected
    before = loss(frozenset())
    for at, one in enumerate(order):
        after = loss(frozenset(expected[: at + 1]))
        assert one.loss == pytest.approx(after, abs=2e-5)
        assert one.increase == pytest.approx(after - before, abs=4e-5)
        assert caplog.messages[at] == f"dropped {one.block}: {one.increase:+.2f}, loss {one.loss:.3f}"
        before = after


def test_a_shorter_order_is_the_beginning_of_a_longer_one() -> None:
    model, tokens_BT = build("llama"), some_tokens(3, 11)
    orders = [found(Trials(model, as_rows(tokens_BT)), least) for least in (4, 3, 2, 1)]
    assert [len(order) for order in orders] == [0, 1, 2, 3]
    assert all(orders[-1][: len(order)] == order for order in orders)


@given(st.sets(st.integers(0, 9), min_size=1, max_size=10), st.data())
def test_seams_are_counted(gone_or_kept: set[int], data: st.DataObject) -> None:
    kept = sorted(gone_or_kept)
    block = data.draw(st.sampled_from(kept))
    rest = [other for other in kept if other != block]
    assert seams_made(block, kept, 10) == seams(rest, 10) - seams(kept, 10)


def test_neighbours_are_kept_together_where_it_costs_little_more() -> None:
    """What is lost with each block of 6; to part neighbours has to be worth a third of what it costs."""
    cost = [9.0, 1.0, 1.4, 9.0, 1.3, 9.0]

    def loss(gone: frozenset[int]) -> float:
        return sum(cost[block] for block in gone)

    assert found(Made(6, loss), 4) == [1, 2]
    cost[2] = 2.0
    assert found(Made(6, loss), 4) == [1, 4]
    cost[1:5] = [1.0, 9.0, 1.2, 9.0]  # 2 then stands alone, and goes before it would by its cost
    assert found(Made(6, loss), 4) == [1, 3]
    cost[2] = 3.0
    assert found(Made(6, loss), 3) == [1, 3, 2]


def test_a_drop_that_lowers_the_loss_is_the_better_the_more_it_does() -> None:
    cost = [9.0, -1.0, 9.0, -1.1, 9.0]

    def loss(gone: frozenset[int]) -> float:
        return sum(cost[block] for block in gone)

    assert found(Made(5, loss), 3) == [3, 1]


def test_only_what_is_allowed_is_dropped() -> None:
    def loss(gone: frozenset[int]) -> float:
        return float(sum(block + 1 for block in gone))

    assert found(Made(6, loss), 3) == [0, 1, 2]
    assert found(Made(6, loss), 3, lambda kept: 0 in kept and 2 in kept) == [1, 3, 4]
    # what is not allowed now may be later: 1 only goes once 5 has gone
    assert found(Made(6, loss), 3, lambda kept: {0, 2} <= set(kept) and (1 in kept or 5 not in kept)) == [3, 4, 5]


def test_where_nothing_is_allowed_it_is_an_error() -> None:
    trials = Made(4, lambda gone: float(len(gone)))
    with pytest.raises(InputError, match=r"choose: auto: no block of \[0, 1, 2, 3\] can be dropped.*; ask for more"):
        found(trials, 2, lambda kept: len(kept) == 4)


def test_an_order_by_a_figure_drops_the_lowest_first_and_of_equal_ones_the_later() -> None:
    order = order_by([3.0, 1.0, 2.0, 1.0])
    assert [one.block for one in order] == [3, 1, 2, 0]
    assert {(one.loss, one.increase) for one in order} == {(None, None)}
