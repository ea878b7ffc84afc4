"""A SentencePiece model made from a tokenizer.json, for programs that read nothing else."""

import json
import re
from typing import TYPE_CHECKING, Any

from inheritune.arch.tokenization import differing_texts
from inheritune.errors import InputError
from inheritune.token_ids import vocabulary_size

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_LAST = -1e9  # the score of what no merge makes


def sentencepiece_model(tokenizer: "PreTrainedTokenizerBase", place: str, remedy: str) -> tuple[bytes, bool]:
    """A tokenizer.model's content that splits texts as `tokenizer` does, and whether it puts a space before a text.

    For BPE with byte fallback, as Llama 2's and Gemma's. A merge becomes the score of the entry that it makes. The
    result is compared with `tokenizer` on test texts and on the words of the vocabulary.

    Raises InputError with `place` and `remedy` for merges that no scores express, for a tokenizer without a token for
    unknown text, and where a text is split differently.
    """
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    fields = json.loads(tokenizer.backend_tokenizer.to_str())
    scores = _scores(fields, place, remedy)
    model = ModelProto()
    _fill(model, fields, scores, vocabulary_size(tokenizer), place, remedy)
    for prefix in (False, True):
        model.normalizer_spec.add_dummy_prefix = prefix
        content = model.SerializeToString()
        wrong = differing_texts(tokenizer, SentencePieceProcessor(model_proto=content))
        if not wrong:
            return content, prefix
    raise InputError(place, f"no SentencePiece model splits {wrong[0][:40]!r} as its tokenizer.json does", remedy)


def _scores(fields: dict[str, Any], place: str, remedy: str) -> dict[str, float]:
    """A score for each entry that a merge makes: the earlier the merge, the higher.

    SentencePiece merges any two neighbours that make an entry, characters that are no entries included, so each pair
    of them must have its merge.
    """
    model, scores = fields["model"], dict[str, float]()
    pairs = {(left, right) for left, right in model["merges"]}
    for at, (left, right) in enumerate(model["merges"]):
        scores.setdefault(left + right, -float(at))
    words = model["vocab"]
    for word in words.keys() - {one["content"] for one in fields["added_tokens"]}:
        if _BYTE.fullmatch(word):
            continue
        for at in range(1, len(word)):
            pair = (word[:at], word[at:])
            if pair not in pairs and all(len(part) == 1 or part in words for part in pair):
                what = f"it has {word!r}, and no merge of {pair[0]!r} and {pair[1]!r}"
                raise InputError(place, f"its tokenizer cannot be written as a SentencePiece model: {what}", remedy)
    return scores


def _fill(
    model: Any, fields: dict[str, Any], scores: dict[str, float], size: int, place: str, remedy: str
) -> None:  # fmt: skip
    """Write the entries in the order of their ids, and the settings."""
    entry = type(model).SentencePiece
    unknown = fields["model"].get("unk_token")
    names = {index: word for word, index in fields["model"]["vocab"].items()}
    added = {one["id"]: one for one in fields["added_tokens"]}
    names |= {index: one["content"] for index, one in added.items()}
    if unknown not in names.values():
        raise InputError(place, "its tokenizer has no token for unknown text, as SentencePiece models need", remedy)
    for index in range(size):
        word = names.get(index)
        if word is None:
            kind, word = entry.UNUSED, f"[PAD{index}]"  # a gap in the ids
        elif word == unknown:
            kind = entry.UNKNOWN
        elif index in added:
            kind = entry.CONTROL if added[index]["special"] else entry.USER_DEFINED
        elif _BYTE.fullmatch(word):
            kind = entry.BYTE
        else:
            kind = entry.NORMAL
        model.pieces.add(piece=word, score=scores.get(word, _LAST) if kind == entry.NORMAL else 0.0, type=kind)
    trained, cleaned = model.trainer_spec, model.normalizer_spec
    trained.model_type, trained.byte_fallback, trained.vocab_size = trained.BPE, True, size
    trained.unk_piece = unknown
    cleaned.name, cleaned.remove_extra_whitespaces, cleaned.escape_whitespaces = "identity", False, True
