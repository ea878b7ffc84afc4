"""A sequence's outputs as words: what is packed comes back, takes as much as was said, and as little as there is."""

from typing import Any

import numpy as np
import pytest

from inheritune.distillation import Layout
from inheritune.losses import TeacherNeeds


def layout(
    vocabulary: int, top_k: int | None = None, blocks: tuple[int, ...] = (), precision: str = "bfloat16",
    temperature: float | None = 1.0, states: int = 64,
) -> Layout:  # fmt: skip
    needs = TeacherNeeds(temperature, top_k, frozenset(blocks))
    return Layout.of(needs, 5, vocabulary, states, 64, precision)


@pytest.mark.parametrize(("given", "each"), [
    (layout(300), 2 * 64), (layout(300, precision="float32"), 4 * 64), (layout(300, states=300), 2 * 300),
    (layout(300, 7), 2 * 8 + 2 * 7), (layout(2**16, 3), 2 * 4 + 2 * 3), (layout(2**16 + 1, 3), 2 * 4 + 4 * 3),
    (layout(10, 10, precision="float32"), 2 * 10 + 2 * 10),
    (layout(300, 7, (2, 4)), 2 * 8 + 2 * 7 + 2 * 2 * 64), (layout(300, None, (2,), "float32"), 2 * 4 * 64),
    (layout(300, None, (5, 0, 1), temperature=None), 3 * 2 * 64),
], ids=repr)  # fmt: skip
def test_what_is_packed_comes_back(given: Layout, each: int) -> None:
    generator = np.random.default_rng(0)

    def array(kind: Any, columns: int) -> Any:
        if kind.kind == "f":
            return -generator.exponential(4, (3, 5, columns)).astype(kind)
        low = -(2**15) if kind.kind == "i" else 0
        return generator.integers(low, 2**15 if kind.kind == "i" else given.vocabulary, (3, 5, columns)).astype(kind)

    arrays = [array(kind, columns) for kind, columns in given.arrays]
    packed = [given.pack([one[i] for one in arrays]) for i in range(3)]
    assert [len(part) for part in packed] == [given.size] * 3 == [5 * each] * 3
    words = np.stack([np.frombuffer(part, "<u2") for part in packed])
    found = given.unpack(words)
    assert len(found) == len(arrays)
    for one, other in zip(found, arrays, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


def test_of_final_states_and_top_k_the_smaller_is_stored() -> None:
    """64 numbers of 2 bytes are 128 bytes; K log-probabilities, the rest, and K indices are 4 K + 2."""
    assert (layout(300, 31).states, layout(300, 31).top_k) == (0, 31)
    assert (layout(300, 32).states, layout(300, 32).top_k) == (64, None)
    assert layout(300, 32, precision="float32").top_k == 32
    assert layout(300, 64, precision="float32").states == 64
    assert layout(300, states=300).states == 300


def test_blocks_are_in_their_order() -> None:
    assert layout(300, blocks=(5, 0, 1)).blocks == (0, 1, 5)
    assert layout(300, temperature=None, blocks=(1,)).states == 0
