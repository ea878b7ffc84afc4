"""A sequence's outputs as words: what is packed comes back, and takes as much as was said."""

import numpy as np
import pytest

from inheritune.distillation import Layout


@pytest.mark.parametrize(("vocabulary", "top_k", "index_bytes"), [
    (300, None, 0), (300, 7, 2), (300, 300, 2), (2**16, 3, 2), (2**16 + 1, 3, 4), (200_000, 4, 4),
])  # fmt: skip
def test_what_is_packed_comes_back(vocabulary: int, top_k: int | None, index_bytes: int) -> None:
    length, generator = 5, np.random.default_rng(0)
    layout = Layout(length, vocabulary, top_k)
    columns = vocabulary if top_k in (None, vocabulary) else top_k + 1
    values = -generator.exponential(4, (3, length, columns)).astype(np.float16)
    indices = None if top_k is None else generator.integers(0, vocabulary, (3, length, top_k))
    if indices is not None:
        indices[0, 0, 0] = vocabulary - 1
    packed = [layout.pack(values[i], None if indices is None else indices[i]) for i in range(3)]
    expected = length * (columns * 2 + (top_k or 0) * index_bytes)
    assert [len(part) for part in packed] == [layout.size] * 3 == [expected] * 3
    words = np.stack([np.frombuffer(part, "<u2") for part in packed])
    found_values, found_indices = layout.unpack(words)
    assert found_values.dtype == np.float16
    assert np.array_equal(found_values, values)
    if indices is None:
        assert found_indices is None
    else:
        assert found_indices is not None
        assert found_indices.dtype == np.int32
        assert np.array_equal(found_indices, indices)
