"""Clusters against a slow reading of the same tokens, one at a time."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.data import IGNORED, Packing, Rows, Sequences, clusters_of

END = 9
Stream = list[int]


def documents(lengths: list[int], seed: int = 0) -> Stream:
    """Documents of these lengths, their ends included."""
    random = np.random.default_rng(seed)
    return [int(token) for size in lengths for token in [*random.integers(0, 7, size - 1), END]]


def slow(stream: Stream, text: Sequences) -> list[list[int]]:
    """The document of every predicted token of each sequence."""
    context, length = text.packing.context, text.sequence_length
    numbers = [stream[:at].count(END) for at in range(len(stream))]
    return [numbers[context + n * length : context + (n + 1) * length] for n in range(text.count)]


def of_all(text: Sequences | Rows, origins: Any = None) -> tuple[list[list[int]], Any]:
    """The cluster of every target that counts, by sequence, read in batches of three."""
    clusters, found = clusters_of(text, origins), []
    for first in range(0, text.count, 3):
        numbers = list(range(first, min(first + 3, text.count)))
        targets = text.rows(numbers).examples().targets.numpy()
        for row, own in zip(clusters.of(numbers, targets), targets != IGNORED, strict=True):
            found.append(row[own].tolist())
    return found, clusters


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=5, max_size=60), st.integers(2, 17), st.sampled_from([(), (8,), (8, 7)]),
    st.booleans(),
)  # fmt: skip
def test_a_cluster_is_a_document_however_sequences_cut_it(
    lengths: list[int], length: int, prefix: tuple[int, ...], apart: bool
) -> None:
    stream = documents(lengths)
    if len(stream) < 2 * length + 2:
        return
    text = Sequences(np.array(stream), length, "x", packing=Packing(prefix, END, documents=apart))
    found, clusters = of_all(text)
    expected = slow(stream, text)
    sizes = np.bincount([number for row in expected for number in row])
    if sizes.sum() ** 2 < 5 * (sizes**2).sum():
        assert clusters.is_divided
        return
    seen = [number for number in range(len(sizes)) if sizes[number]]
    assert found == [[seen.index(number) for number in row] for row in expected]
    assert clusters.tokens == tuple(sizes[seen].tolist())
    assert clusters.documents == len(seen)


def test_where_the_text_has_the_prefix_itself_its_tokens_do_not_count() -> None:
    stream = [token for size in (6, 9, 4, 7, 8, 5, 6) for token in [8, *documents([size], size)]]
    text = Sequences(np.array(stream), 8, "x", packing=Packing((8,), END))
    found, clusters = of_all(text)
    assert sum(clusters.tokens) == sum(map(len, found)) == int((text.rows(range(text.count)).predicted >= 0).sum())
    assert clusters.documents == 7


def test_a_long_document_is_divided_into_contiguous_stretches_of_equal_size() -> None:
    text = Sequences(np.arange(2001) % 8, 10, "x", packing=Packing((), END))
    found, clusters = of_all(text)
    assert clusters.documents == 1
    assert clusters.is_divided
    assert clusters.tokens == (200,) * 10
    assert [row[0] for row in found] == sorted(row[0] for row in found)


def test_of_few_documents_a_short_one_is_not_divided_and_none_is_mixed_with_another() -> None:
    lengths = [100, 900, 150, 850]
    text = Sequences(np.array(documents(lengths)), 10, "x", packing=Packing((8,), END))
    found, clusters = of_all(text)
    by_document = [slow(documents(lengths), text)[row] for row in range(text.count)]
    pairs = {pair for rows in zip(found, by_document, strict=True) for pair in zip(*rows, strict=True)}
    assert len({cluster for cluster, _ in pairs}) == len(pairs)  # a cluster lies in one document
    assert [sum(1 for _, at in pairs if at == number) for number in range(4)] == [1, 4, 1, 4]
    assert clusters.documents == 4


def test_pieces_of_one_file_are_one_document_and_divided_in_the_order_of_the_file() -> None:
    """As many pieces as one likes: they are contiguous stretches of the file that count."""
    lengths, positions = [50] * 40, np.random.default_rng(3).permutation(40)
    text = Sequences(np.array(documents(lengths)), 25, "x", packing=Packing((8,), END))
    found, clusters = of_all(text, [[7, int(at)] for at in positions])
    assert clusters.documents == 1
    assert clusters.is_divided
    for row, document in zip(found, np.repeat(np.arange(40), 2), strict=True):
        assert set(row) == {positions[document] // 4}


def test_pieces_of_many_files_are_clustered_by_file() -> None:
    text = Sequences(np.array(documents([20] * 60)), 20, "x", packing=Packing((8,), END))
    found, clusters = of_all(text, [[number % 12, number // 12] for number in range(60)])
    assert clusters.documents == 12
    assert [row[0] for row in found] == [number % 12 for number in range(60)]


def test_without_the_end_of_text_the_text_is_one_document() -> None:
    _, clusters = of_all(Sequences(np.array(documents([10] * 30)), 10, "x"))
    assert (clusters.documents, len(clusters.tokens)) == (1, 10)


def test_padding_of_a_last_sequence_has_no_cluster() -> None:
    rows = Rows(np.array([[8, 1, 2, END], [3, END, -100, -100]]), Packing((), END))
    found, clusters = of_all(rows)
    assert sum(clusters.tokens) == 4
    assert [len(row) for row in found] == [3, 1]


@pytest.mark.parametrize("sequences", [1, 3])
def test_fewer_sequences_than_stretches(sequences: int) -> None:
    _, clusters = of_all(Sequences(np.arange(sequences * 8 + 1) % 5, 8, "x"))
    assert len(clusters.tokens) == sequences
    assert sum(clusters.tokens) == sequences * 8
