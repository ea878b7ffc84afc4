"""A few sequences out of text: where they lie, and what is too short."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inheritune.corpus import documents, sample_text
from inheritune.data import Sequences, sample
from inheritune.errors import InputError


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 400), st.integers(1, 20), st.data())
def test_sequences_are_spread_evenly_and_do_not_overlap(tokens: int, length: int, data: st.DataObject) -> None:
    length = min(length, tokens - 1)
    there = (tokens - 1) // length
    count = data.draw(st.integers(1, there))
    rows = sample(Sequences(np.arange(tokens), length, "text"), count, "text").windows
    assert rows.shape == (count, length + 1)
    assert (np.diff(rows, axis=1) == 1).all()  # each a run of neighbouring tokens
    starts = [*rows[:, 0].tolist(), there * length]
    gaps = np.diff(starts)
    assert starts[0] == 0
    assert gaps.min() >= length
    assert gaps.max() - gaps.min() <= length  # as even as whole sequences allow


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(InputError, match=r"here: 5 sequences of 10 tokens asked for, the text has 4; .*at most 4"):
        sample(Sequences(np.arange(41), 10, "here"), 5, "here")


def encoded(tokenizer: Any, documents: list[str]) -> list[int]:
    """Documents behind each other, an end-of-text token behind each."""
    found: list[int] = []
    for document in documents:
        found += [*tokenizer(document, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return found


def test_text_is_its_documents_behind_each_other(text: Path, tokenizer: Any) -> None:
    files = sorted(text.iterdir())[:4]
    expected = encoded(tokenizer, [file.read_text(encoding="utf-8") for file in files])
    count = (len(expected) - 1) // 16
    rows = sample_text(files, tokenizer, count, 16).windows
    assert rows[:, :-1].flatten().tolist() == expected[: count * 16]
    assert rows[:, 1:].flatten().tolist() == expected[1 : count * 16 + 1]
    assert tokenizer.eos_token_id in rows


def test_of_a_large_text_the_first_part_is_looked_at(text: Path, tokenizer: Any) -> None:
    """Twenty times what is asked for: the last sequence begins within it, however much follows."""
    expected = encoded(tokenizer, [file.read_text(encoding="utf-8") for file in sorted(text.iterdir())])
    rows = sample_text([text], tokenizer, 2, 8).windows
    at = [next(n for n in range(len(expected)) if expected[n : n + 9] == row) for row in rows.tolist()]
    assert at[0] == 0
    assert 2 * 8 * 4 < at[1] < 2 * 8 * 20 + 400
    assert len(expected) > 4 * 2 * 8 * 20


def test_of_a_long_document_only_what_can_be_needed_is_tokenised(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("the small model " * 20_000)
    given: list[int] = []

    class Counting:
        """A tokenizer that notes how much it is given."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: Any, *more: Any, **named: Any) -> Any:
            given.extend(map(len, [texts] if isinstance(texts, str) else texts))
            return tokenizer(texts, *more, **named)

    assert sample_text([tmp_path], Counting(), 2, 8).windows.shape == (2, 9)  # type: ignore[arg-type]
    assert sum(given) <= 2 * 8 * 20 * 16


def test_text_shorter_than_a_sequence_is_an_error(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("the small model")
    tokens = len(encoded(tokenizer, ["the small model"]))
    with pytest.raises(InputError, match=f"{tokens} tokens, and one sequence takes 101; give more text, or a smaller"):
        sample_text([tmp_path / "a.txt"], tokenizer, 1, 100)
    with pytest.raises(InputError, match=r"no-such: no such file or folder"):
        sample_text([tmp_path / "no-such"], tokenizer, 1, 4)


def test_remedies_that_need_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(
        InputError, match=r"`encoding` \(auto .*`inheritune prepare` has these as options; give its folder"
    ):
        list(documents([tmp_path]))
    with pytest.raises(InputError, match=r"no such file or folder; correct the path$"):
        list(documents([tmp_path / "none"]))
