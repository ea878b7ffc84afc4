"""A SentencePiece model made from a tokenizer.json splits text as the one that the tokenizer was published with."""

from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from test_tokenizers import KINDS, NASTY, reorder, settle, train
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from inheritune.arch import load_tokenizer, sentencepiece_model, trim_tokenizer
from inheritune.errors import InputError
from inheritune.recipe import Reference


@pytest.mark.parametrize("kind", ["llama", "no space put before the text", "own symbols"])
def test_it_splits_as_the_published_one(kind: str, tmp_path: Path) -> None:
    settings, fields = KINDS[kind]
    train(tmp_path, **settings)
    judge = reorder(tmp_path)  # so that no merge follows from the number of an entry
    settle(tmp_path, **fields)
    tokenizer = load_tokenizer(Reference(path=str(tmp_path)))
    content, prefix = sentencepiece_model(tokenizer, "here", "do that")
    made = SentencePieceProcessor(model_proto=content)
    assert [text for text in NASTY if made.encode(text) != judge.encode(text)] == []
    assert prefix == settings.get("add_dummy_prefix", True)
    for name in ("id_to_piece", "is_unknown", "is_control", "is_byte"):
        facts = [[getattr(one, name)(at) for at in range(one.get_piece_size())] for one in (made, judge)]
        assert facts[0] == facts[1], name


def test_of_a_trimmed_tokenizer(tmp_path: Path) -> None:
    judge = train(tmp_path)
    settle(tmp_path)
    tokenizer = load_tokenizer(Reference(path=str(tmp_path)))
    kept = [at for at in range(400) if at < 259 or at % 3 or len(judge.id_to_piece(at)) == 1]
    trimmed = trim_tokenizer(tokenizer, kept)
    made = SentencePieceProcessor(model_proto=sentencepiece_model(trimmed, "here", "do that")[0])
    assert made.get_piece_size() == len(kept) < 400
    assert [made.encode(text) for text in NASTY] == [
        trimmed(text, add_special_tokens=False)["input_ids"] for text in NASTY
    ]


def small(vocab: list[str], merges: list[tuple[str, str]], **settings: Any) -> PreTrainedTokenizerFast:
    numbers = {word: at for at, word in enumerate(vocab)}
    core = Tokenizer(models.BPE(numbers, merges, unk_token=settings.get("unk_token"), byte_fallback=True))
    return PreTrainedTokenizerFast(tokenizer_object=core, **settings)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"here: its tokenizer has no token for unknown text.*; do that"):
        sentencepiece_model(small(["a", "b"], []), "here", "do that")
    letters = ["<unk>", "a", "b", "c", "ab", "bc", "abc"]
    two_of_three = small(letters, [("a", "b"), ("b", "c"), ("ab", "c")], unk_token="<unk>")
    with pytest.raises(InputError, match="it has 'abc', and no merge of 'a' and 'bc'; do that"):
        sentencepiece_model(two_of_three, "here", "do that")
    without_a_letter = small(["<unk>", "a", "ab"], [], unk_token="<unk>")  # nothing merges to it, but in SentencePiece
    with pytest.raises(InputError, match="it has 'ab', and no merge of 'a' and 'b'; do that"):
        sentencepiece_model(without_a_letter, "here", "do that")
    settings, fields = KINDS["nfkc"]
    train(tmp_path, **settings)
    settle(tmp_path, **fields)
    with pytest.raises(InputError, match=r"no SentencePiece model splits '.*' as its tokenizer.json does; do that"):
        sentencepiece_model(load_tokenizer(Reference(path=str(tmp_path))), "here", "do that")
