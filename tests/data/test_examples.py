"""What a model is given of a text: the prefix of its tokenizer in front of sequences and documents, and what counts."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.data import IGNORED, Examples, Packing, Rows, Sequences

END = 9


def slowly(window: list[int], packing: Packing) -> tuple[list[int], list[int], list[int]]:
    """Tokens, whether each is a target, and its place in its document, token by token."""
    prefix, tokens, counts, places = list(packing.prefix), [], [], []
    stored = [
        bool(prefix) and END not in prefix and window[at : at + len(prefix)] == prefix[: len(window) - at]
        for at in range(len(window))
    ]
    for at, token in enumerate(window):
        begins = at == 0 or window[at - 1] == packing.end_of_text
        shared = prefix == [packing.end_of_text] and not packing.documents and at > 0
        if begins:
            place = 0
        if begins and prefix and not stored[at] and not shared:
            for one in prefix:
                tokens.append(one)
                counts.append(False)
                places.append(place)
                place += 1
        rests = [prefix[cut:] for cut in range(1, len(prefix))] if END not in prefix else []
        inside = any(at < len(rest) and window[: len(rest)] == rest[: len(window)] for rest in rests)
        inside = inside or any(stored[max(0, at - back)] and at - back >= 0 for back in range(len(prefix)))
        tokens.append(token)
        counts.append(not inside and not (at == 0 and not prefix))
        places.append(place)
        place += 1
    return tokens, counts, places


@settings(deadline=None)
@given(
    windows=st.integers(2, 12).flatmap(
        lambda size: st.lists(st.lists(st.integers(0, END), min_size=size, max_size=size), min_size=1, max_size=5)
    ),
    prefix=st.sampled_from([(), (1,), (1, 2), (END,), (3, 4, 5)]),
    documents=st.booleans(),
)
def test_examples_are_what_is_written_down_token_by_token(
    windows: list[list[int]], prefix: tuple[int, ...], documents: bool
) -> None:
    packing = Packing(prefix, END, documents)
    examples = Rows(np.array(windows), packing).examples()
    for row, window in enumerate(windows):
        tokens, counts, places = slowly(window, packing)
        length = len(tokens) - 1
        assert examples.lengths[row] == length
        assert examples.inputs[row, :length].tolist() == tokens[:-1]
        wanted = [token if counted else IGNORED for token, counted in zip(tokens, counts, strict=True)][1:]
        assert examples.targets[row, :length].tolist() == wanted
        assert (examples.targets[row, length:] == IGNORED).all()
        if documents:
            assert examples.positions is not None
            assert examples.positions[row, :length].tolist() == places[:-1]
        else:
            assert examples.positions is None
    if examples.places is not None:
        rows = Rows(np.array(windows), packing)
        places = examples.places.numpy()
        found = np.where(
            places < 0, IGNORED, np.take_along_axis(examples.targets.numpy(), np.maximum(places, 0), axis=1)
        )
        assert found.tolist() == rows.predicted.tolist()


@given(tokens=st.integers(20, 60), length=st.integers(1, 9), prefix=st.sampled_from([(), (77,), (77, 78)]))
def test_every_token_is_predicted_once_and_a_sequence_predicts_its_length(
    tokens: int, length: int, prefix: tuple[int, ...]
) -> None:
    sequences = Sequences(np.arange(100, 100 + tokens), length, "here", packing=Packing(prefix, None))
    examples = sequences.rows(range(sequences.count)).examples()
    predicted = examples.targets[examples.targets != IGNORED].tolist()
    first = 100 if prefix else 101  # without a prefix nothing predicts the first token
    assert predicted == list(range(first, first + sequences.count * length))
    assert examples.counts.tolist() == [length] * sequences.count
    assert sequences.left_over == tokens - (first - 100) - len(predicted)


def test_places_say_which_input_predicts_each_token_of_the_text() -> None:
    rows = Rows(np.array([[5, END, 6, 7], [5, 6, 7, 8]]), Packing((1, 2), END))
    examples = rows.examples()
    assert examples.places is not None
    found = np.take_along_axis(examples.targets.numpy(), examples.places.numpy(), axis=1)
    assert found.tolist() == rows.predicted.tolist()


def test_a_last_piece_may_be_shorter() -> None:
    examples = Rows(np.array([[5, 6, 7], [8, IGNORED, IGNORED]]), Packing((1,), END)).examples()
    assert examples.inputs.tolist() == [[1, 5, 6], [1, 8, 0]]
    assert examples.targets.tolist() == [[5, 6, 7], [8, IGNORED, IGNORED]]
    assert examples.lengths == (3, 1)


def test_batches_hold_pieces_of_one_length_and_all_of_them() -> None:
    windows = np.array([[5, END, 6, 7], [5, 6, 7, 8], [END, 4, END, 3], [1, 2, 3, 4]])
    rows = Rows(windows, Packing((1, 2), END))
    seen = []
    for numbers, examples in rows.batches(2):
        assert len(set(examples.lengths)) == 1
        assert examples.inputs.shape[1] == examples.lengths[0]
        seen += numbers.tolist()
    assert sorted(seen) == [0, 1, 2, 3]


@pytest.mark.parametrize("prefix", [(), (1,)])
def test_shorter_pieces_hold_the_same_text(prefix: tuple[int, ...]) -> None:
    rows = Sequences(np.arange(50), 10, "here", packing=Packing(prefix, None)).rows([0, 2])
    shorter = rows.cut(4)
    assert shorter.sequence_length == 4
    assert len(shorter) == 4
    assert shorter.predicted.tolist() == [row[at : at + 4] for row in rows.predicted.tolist() for at in (0, 4)]


def test_a_stored_prefix_is_not_predicted_and_not_doubled() -> None:
    """Windows that begin with it, hold it inside, and begin behind its first token."""
    windows = np.array([[1, 2, 5, 6, 7], [5, END, 1, 2, 6], [2, 5, 6, 7, 8]])
    rows = Rows(windows, Packing((1, 2), END))
    examples = rows.examples()
    assert examples.inputs[0, :4].tolist() == [1, 2, 5, 6]
    assert examples.inputs[1, :6].tolist() == [1, 2, 5, END, 1, 2]
    assert not set(examples.targets.unique().tolist()) & {1, 2}
    assert rows.predicted.tolist() == [[-100, -100, 5, 6, 7], [5, END, -100, -100, 6], [-100, 5, 6, 7, 8]]


def test_a_row_without_targets_counts_as_one_so_that_its_loss_is_zero() -> None:
    """A rank's last micro-batch may be filled up with rows that are padding alone."""
    targets = torch.tensor([[3, IGNORED], [IGNORED, IGNORED]])
    examples = Examples(torch.zeros(2, 2, dtype=torch.long), targets, (2, 2))
    assert examples.counts.tolist() == [1, 1]
    assert examples.counted == 1
