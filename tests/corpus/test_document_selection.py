"""What is drawn, beside slow formulas on plain lists."""

import io
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.corpus.building.collection import Part
from inheritune.corpus.building.drawing import (
    KEYS,
    Supply,
    Threshold,
    Thresholds,
    budgets,
    check_enough,
    first_thresholds,
    raised,
)
from inheritune.corpus.building.selection import (
    Candidates,
    Piece,
    available,
    cut,
    filter_counts,
    training_pieces,
)
from inheritune.corpus.building.tokenising import INDEX, TokenPart
from inheritune.corpus.building.validation import Validation, choose_validation, origins_of
from inheritune.corpus.filters.exact_duplicates import ExactDuplicates
from inheritune.errors import InputError
from inheritune.recipe import Data, check

OPEN = Threshold(KEYS, 2**62)
WHOLE = Thresholds((OPEN,) * 2, (OPEN,) * 2)


@dataclass(frozen=True)
class Row:
    validation_key: int
    training_key: int
    text: int  # equal numbers are equal texts
    tokens: int
    source: int
    removed: int
    position: int = -1
    origin: int = 0
    offset: int = -1


def candidates(folder: Path, parts: list[list[Row]], thresholds: Thresholds = WHOLE, removed: Any = None) -> Candidates:
    places = []
    for number, rows in enumerate(parts):
        place = TokenPart(Part(folder / f"{number}.jsonl", {}), folder)
        table = [
            (
                r.validation_key,
                r.training_key,
                (r.text, 7),
                r.position,
                r.origin,
                r.offset,
                r.tokens,
                r.source,
                r.removed,
            )
            for r in rows
        ]
        body = io.BytesIO()
        np.save(body, np.array(table, INDEX))
        place.index.write_bytes(body.getvalue())
        places.append(place)
    return Candidates(places, thresholds, removed)


def data(sources: int = 2, **more: Any) -> Data:
    given_ = [{"path": f"s{n}"} for n in range(sources)]
    for number, extra in enumerate(more.pop("of", [])):
        given_[number] |= extra
    return check(Data, {"sources": given_, "validation": "10 tokens", **more}, "data")


def keys_of(text: int) -> tuple[int, int]:
    """Keys that depend on the text alone, as the real ones do."""
    return (text * 0x9E3779B97F4A7C15) % KEYS, (text * 0xC2B2AE3D27D4EB4F + 99) % KEYS


rows = st.builds(
    lambda text, source, removed: Row(*keys_of(text), text, text % 13 + 1, source, removed),
    st.integers(0, 30),
    st.integers(0, 1),
    st.sampled_from([0, 0, 0, 1]),
)
part_lists = st.lists(st.lists(rows, max_size=12), min_size=1, max_size=4)


def flat(parts: list[list[Row]]) -> list[tuple[int, int, Row]]:
    """Every kept row with its part and its first token in the part's file."""
    found = []
    for number, part in enumerate(parts):
        start = 0
        for row in part:
            if not row.removed:
                found.append((number, start, row))
                start += row.tokens
    return found


def slow_choice(parts: list[list[Row]], wanted: int, most: int | None) -> tuple[list[Row], int]:
    """The documents of validation, and the number of tokens at which long ones are cut; as the rule is told."""
    cap, chosen, seen = max(2, math.ceil(wanted / 20)), list[Row](), set[int]()
    for _, _, row in sorted(flat(parts), key=lambda entry: (entry[2].validation_key, entry[2].source, entry[0])):
        enough = tokens_below(chosen, cap) >= wanted
        whole = sum(one.tokens for one in chosen)
        beyond = most is not None and (row.validation_key >= KEYS // 10 or whole + row.tokens > most)
        if row.text in seen:
            continue
        if enough or (whole >= wanted and beyond):
            break
        seen.add(row.text)
        chosen.append(row)
    there = sum(row.tokens for row in chosen)
    level = next(level for level in itertools.count(cap) if tokens_below(chosen, level) >= min(wanted, there))
    return chosen, level


def tokens_below(some: list[Row], level: int) -> int:
    return sum(min(row.tokens, level) for row in some)


@pytest.mark.long
@settings(deadline=None, max_examples=300)
@given(part_lists, st.integers(1, 300), st.one_of(st.none(), st.integers(0, 100)), st.integers(1, 3))
def test_validation_is_the_first_by_key_each_text_once_and_no_more_than_its_share(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Row]], wanted: int, most: int | None, in_memory: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inheritune.corpus.building.selection._IN_MEMORY", in_memory)
        found = choose_validation(candidates(tmp_path_factory.mktemp("c"), parts), wanted, most)
    chosen, level = slow_choice(parts, wanted, most)
    assert [(p.tokens, p.source) for p in found.pieces] == [(min(row.tokens, level), row.source) for row in chosen]
    assert found.taken == {np.array([row.text, 7], "<u8").tobytes() for row in chosen}
    there, everything = sum(row.tokens for row in chosen), len({row.text for _, _, row in flat(parts)})
    assert (found.counted >= wanted) == (
        there >= wanted and (level == max(2, -(-wanted // 20)) or len(chosen) < everything)
    )


@pytest.mark.long
@settings(deadline=None, max_examples=100)
@given(part_lists, st.integers(241, 600), st.one_of(st.none(), st.integers(0, 600)))
def test_validation_of_documents_below_the_cap_is_whole(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Row]], wanted: int, most: int | None
) -> None:
    """No document of these has more than 13 tokens, and a twentieth of what is wanted is 13 at least."""
    pieces = choose_validation(candidates(tmp_path_factory.mktemp("c"), parts), wanted, most).pieces
    expected: list[int] = []
    seen = set()
    for _, _, row in sorted(flat(parts), key=lambda entry: (entry[2].validation_key, entry[2].source, entry[0])):
        if row.text not in seen and sum(expected) < wanted:
            seen.add(row.text)
            expected.append(row.tokens)
    assert [piece.tokens for piece in pieces] == expected


def test_only_a_tenth_of_the_text_is_withheld_for_the_sake_of_many_documents(tmp_path: Path) -> None:
    """A hundred documents of 50 tokens: ten of them have keys in the first tenth."""

    def chosen(wanted: int, most: int | None) -> list[int]:
        table = [Row(KEYS * number // 100, 0, number, 50, 0, 0) for number in range(100)]
        return [piece.tokens for piece in choose_validation(candidates(tmp_path, [table]), wanted, most).pieces]

    assert chosen(100, None) == [5] * 20
    assert chosen(100, 10**6) == [10] * 10
    assert chosen(101, 10**6) == [11] * 10
    assert chosen(100, 300) == [17] * 6
    assert chosen(100, 299) == [20] * 5
    assert chosen(100, 0) == [50] * 2
    assert chosen(700, 10**6) == [50] * 14  # ten have too few tokens, and at fourteen there are enough
    assert chosen(660, 0) == [48] * 14
    assert chosen(4990, 0) == [50] * 100


def test_pieces_of_one_file_have_one_origin_and_all_others_their_own() -> None:
    found = [(3, 900), (0, -1), (3, 100), (2**64 - 1, 0), (0, -1), (3, 0)]
    validation = Validation([Piece(0, 0, 5, 0)] * len(found), set(), 0, found)
    cut_in_pieces = data(2, of=[{"document": "2K characters"}])
    assert origins_of(cut_in_pieces, validation) == [(0, 900), (1, 0), (0, 100), (2, 0), (3, 0), (0, 0)]
    assert origins_of(data(2, of=[{"document": "line"}]), validation) is None


@settings(deadline=None, max_examples=60)
@given(part_lists, st.integers(1, 80), st.booleans(), st.one_of(st.none(), st.integers(1, 30)))
def test_training_is_drawn_by_key_exactly_and_without_validation(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[Row]], size: int, weighted: bool, limit: int | None
) -> None:
    of: list[dict[str, Any]] = [{"weight": 1}, {"weight": 3}] if weighted else [{}, {}]
    if limit is not None:
        of[1]["limit"] = f"{limit} tokens"
    asked = data(size=f"{size} tokens", of=of)
    found = candidates(tmp_path_factory.mktemp("c"), parts)
    taken = choose_validation(found, 10, None).taken
    held = {row.text for _, _, row in flat(parts) if np.array([row.text, 7], "<u8").tobytes() in taken}
    pool = sorted(
        (entry for entry in flat(parts) if entry[2].text not in held),
        key=lambda entry: (entry[2].training_key, entry[2].source, entry[0]),
    )
    stock = [sum(row.tokens for _, _, row in pool if row.source == n) for n in (0, 1)]
    assert available(found, taken, 2) == stock

    def take(entries: list[tuple[int, int, Row]], budget: int, cap: int | None) -> list[tuple[int, int, int]]:
        out, have, of_one = [], 0, 0
        for part, start, row in entries:
            room = min(row.tokens, budget - have)
            if cap is not None and row.source == 1:
                room = min(room, cap - of_one)
            if room > 0:
                out.append((part, start, room))
                have += room
                of_one += room * (row.source == 1)
        return out

    if weighted:
        shares = [round(size / 4), size - round(size / 4)]
        if limit is not None and shares[1] > limit:
            shares = [size - limit, limit]
        expected = [piece for n in (0, 1) for piece in take([e for e in pool if e[2].source == n], shares[n], None)]
    else:
        expected = take(pool, size, limit)
    assert [(p.part, p.start, p.tokens) for p in training_pieces(asked, found, taken)] == expected


def test_thresholds_admit_what_is_below_them_and_the_beginning_of_a_stream(tmp_path: Path) -> None:
    edge = 1000
    table = [
        Row(0, edge - 1, 1, 1, 0, 0), Row(0, edge, 2, 2, 0, 0), Row(0, KEYS - 1, 3, 4, 0, 0),
        Row(0, KEYS - 1, 4, 8, 1, 0, position=0), Row(0, 0, 5, 16, 1, 0, position=50), Row(0, 0, 6, 32, 1, 0, position=49),
    ]  # fmt: skip
    thresholds = Thresholds((Threshold(), Threshold()), (Threshold(edge, 0), Threshold(0, 50)))
    assert available(candidates(tmp_path, [table], thresholds), set(), 2) == [1, 40]
    for row in table:
        position = None if row.position < 0 else row.position
        keys = row.validation_key, row.training_key
        assert thresholds.admits(row.source, keys, position) == (row.tokens in (1, 8, 32))
    whole = Thresholds((Threshold(), Threshold()), (OPEN, OPEN))
    assert available(candidates(tmp_path, [table], whole), set(), 2) == [7, 56]


def test_the_second_of_equal_texts_goes_whatever_part_it_stands_in(tmp_path: Path) -> None:
    def row(text: int, source: int, removed: int = 0) -> Row:
        return Row(*keys_of(text), text, 5, source, removed)

    parts = [[row(1, 1), row(2, 0)], [row(1, 0), row(2, 0), row(3, 0)], [row(3, 0, removed=1), row(1, 1)]]
    found = candidates(tmp_path, parts)
    marks = ExactDuplicates().marks(2, found, set(), tmp_path, None)  # type: ignore[arg-type]
    assert [m.tolist() for m in marks] == [[2, 0], [0, 2, 0], [0, 2]]
    after = found.marked(marks)
    assert filter_counts(after, 2).tolist() == [[3, 15], [1, 5], [3, 15]]


@given(st.integers(1, 10**12), st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_weights_share_a_budget_out_exactly(budget: int, weights: list[float]) -> None:
    asked = budgets(data(len(weights), size=f"{budget} tokens", of=[{"weight": w} for w in weights]))
    assert sum(n or 0 for n in asked) == budget
    for share, weight in zip(asked, weights, strict=True):
        assert abs((share or 0) - budget * weight / sum(weights)) <= len(weights)


def test_what_a_limit_keeps_back_goes_to_the_others() -> None:
    of: list[dict[str, Any]] = [{"weight": 2, "limit": "100 tokens"}, {"weight": 1}, {"weight": 1}]
    assert budgets(data(3, size="1000 tokens", of=of)) == [100, 450, 450]
    of[1]["limit"] = "420 tokens"
    assert budgets(data(3, size="1000 tokens", of=of)) == [100, 420, 480]


def test_thresholds_are_as_high_as_needed_and_rise_until_they_are_high_enough() -> None:
    asked = data(2, size="1000 tokens", of=[{"weight": 1}, {"weight": 1}])
    first = first_thresholds(asked, [300_000, 4_000])
    assert first.training[0].keys == pytest.approx(KEYS * 500 * 6 / 300_000)
    assert first.training[1].keys == KEYS  # three quarters of it are needed at least
    assert raised(asked, first, Supply(10, 10, (500, 500), (True, True))) is None
    higher = raised(asked, first, Supply(10, 10, (100, 500), (True, True)))
    assert higher is not None
    assert higher.training[0].keys == pytest.approx(first.training[0].keys * 6.5)
    assert (higher.training[1], higher.validation) == (first.training[1], first.validation)
    more = raised(asked, first, Supply(10, 9, (500, 500), (True, True)))
    assert more is not None
    assert more.training == first.training
    assert more.validation[0].keys == pytest.approx(first.validation[0].keys * 2)
    for _ in range(70):
        higher = raised(asked, higher, Supply(1, 1, (1, 1), (True, True)))
        if higher is None:
            break
    assert higher is None  # they admit everything, so there is no more


@pytest.mark.parametrize(
    ("more", "supply", "message"),
    [
        ({}, Supply(9, 9, (100, 1), (False, False)), "data.validation: 10 tokens asked for, the text has 9"),
        ({}, Supply(10, 10, (0, 0), (False, False)), "some text besides validation is needed"),
        ({"size": "50 tokens"}, Supply(10, 10, (30, 10), (False, False)), "data.size: 50 training tokens asked for, there are 40 .* data.size of 40 tokens would fit"),
        (
            {"size": "50 tokens", "of": [{"weight": 1}, {"weight": 4}]},
            Supply(10, 10, (99, 20), (False, False)),
            "data.sources: s1: 40 training tokens asked for, there are 20 .* data.size of 25 tokens would fit",
        ),
    ],
)  # fmt: skip
def test_too_little_text_is_said_with_what_would_fit(more: dict[str, Any], supply: Supply, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_enough(data(2, **more), supply)


def test_a_cut_piece_keeps_its_beginning() -> None:
    pieces = [Piece(0, 0, 5, 0), Piece(0, 5, 5, 1), Piece(0, 10, 5, 0)]
    assert list(cut(pieces, 12, [None, 3])) == [Piece(0, 0, 5, 0), Piece(0, 5, 3, 1), Piece(0, 10, 4, 0)]
