"""Tokenizers: training one, encoding text, the prefix of a text, and the fingerprint that identifies a tokenizer."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from inheritune.errors import InputError, is_failure

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
_LONG, _PIECE, _OVERLAP = 2_000_000, 500_000, 20_000  # characters
_PROBE = "The quick brown fox: 3.14 x 10^2\n\tdef f(x):\n    return 'naïve – 東京' # ÄÖ\r\n"


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> "PreTrainedTokenizerBase":
    """A byte-level BPE tokenizer (as GPT-2's) of exactly `vocabulary` entries, trained on `texts`.

    It has no padding token, like GPT-2's. End-of-text as padding would be wrong: fine-tuning would then compute no loss
    at the end of a text, and many architectures never train the embedding of their padding token.

    Raises InputError when the text has too few different pairs for so many entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocabulary:
        raise InputError(
            "reference.train.tokenizer.vocabulary",
            f"the text yields only {tokenizer.get_vocab_size()} entries, {vocabulary} asked for",
            f"give at most {tokenizer.get_vocab_size()}, or more text",
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A hash of a tokenizer's vocabulary, its end-of-text token and its split of a probe text."""
    facts = [
        sorted(tokenizer.get_vocab().items()),
        tokenizer.eos_token_id,
        tokenizer(_PROBE, add_special_tokens=False)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=True).encode()).hexdigest()


def separator(tokenizer: "PreTrainedTokenizerBase", place: str) -> int:
    """The id put after every document. Raises InputError for a tokenizer without an end-of-text token."""
    token = tokenizer.eos_token_id
    if not isinstance(token, int):
        what = "the tokenizer has no end-of-text token (eos_token)"
        raise InputError(place, what, "set eos_token in its tokenizer_config.json")
    return token


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The ids of special tokens, those of a chat template's turns among them."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tuple(sorted(added | set(tokenizer.all_special_ids)))


def prefix_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """The ids that a tokenizer puts before a text: none, beginning-of-text, or several (GLM: `[gMASK]<sop>`)."""
    text: list[int] = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(_PROBE)["input_ids"]
    for before in range(len(whole) - len(text) + 1):
        if whole[before : before + len(text)] == text:
            return tuple(whole[:before])
    special = set(tokenizer.all_special_ids)  # the added ids change how the text itself is split
    return tuple(whole[: next((place for place, token in enumerate(whole) if token not in special), 0)])


class Encoder:
    """Encodes texts as ids, without special tokens: text that spells one out stays text. It is sent to workers."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Use the `tokenizers` library alone where that gives the same ids as `tokenizer`."""
        self._json = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else None
        self._tokenizer = tokenizer
        if self._json is not None and self._direct([_PROBE]) == self._whole([_PROBE]):
            self._tokenizer = None

    @property
    def digest(self) -> str | None:
        """A hash of its tokenizer.json, which decides all ids; None where there is none."""
        return None if self._json is None else hashlib.sha256(self._json.encode()).hexdigest()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text. A long text is encoded in pieces: the library uses 150 bytes of memory per byte."""
        try:
            if any(len(text) > _LONG for text in texts) and self._tokenizer is None:
                return [self._in_pieces(text) or self._direct([text])[0] for text in texts]
            return self._direct(texts) if self._tokenizer is None else self._whole(texts)
        except BaseException as error:
            if isinstance(error, Exception) or not is_failure(error):
                raise
            what = f"the tokenizers library panics at a text ({error})"
            raise InputError("reference.tokenizer", what, "repair its tokenizer.json, or give another one") from None

    def _direct(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._core.encode_batch_fast(texts, add_special_tokens=False)]

    def _in_pieces(self, text: str) -> list[int] | None:
        """The ids of a text from those of pieces that overlap; None where two pieces do not agree in their overlap.

        Each piece is encoded as a text of its own, so tokens near its ends may be wrong. In the middle half of their
        overlap two pieces must have the same tokens, as distant text does not change how a place is split. They are
        joined there.
        """
        if len(text) <= _LONG:
            return None
        ids: list[int] = []
        held = self._placed(text, 0)
        for start in range(_PIECE - _OVERLAP, len(text) - _OVERLAP, _PIECE - _OVERLAP):
            following = self._placed(text, start)
            low, high = start + _OVERLAP // 4, start + _OVERLAP - _OVERLAP // 4
            left, right = (
                [at for at, (_, place) in enumerate(tokens) if low <= place < high] for tokens in (held, following)
            )
            if not left or [held[at] for at in left] != [following[at] for at in right]:
                return None
            middle = len(left) // 2
            ids.extend(token for token, _ in held[: left[middle]])
            held = following[right[middle] :]
        return ids + [token for token, _ in held]

    def _placed(self, text: str, start: int) -> list[tuple[int, int]]:
        """The tokens of the piece that begins at `start`, each with the character of the text that it begins at."""
        encoding = self._core.encode(text[start : start + _PIECE], add_special_tokens=False)
        return [(token, start + begin) for token, (begin, _) in zip(encoding.ids, encoding.offsets, strict=True)]

    def _whole(self, texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, verbose=False
        )["input_ids"]
        return ids

    @cached_property
    def _core(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        assert self._json is not None
        try:
            core = Tokenizer.from_str(self._json)
        except Exception as error:  # of no class of its own
            what = f"its vocabulary and merges contradict each other ({error})"
            raise InputError("reference.tokenizer", what, "repair its tokenizer.json, or give another one") from None
        core.no_truncation()
        core.no_padding()
        core.encode_special_tokens = True
        return core

    def __deepcopy__(self, memo: dict[int, Any]) -> "Encoder":
        """Return itself, as it never changes: with copies, each task of a process would load the tokenizer again."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {"_json": self._json, "_tokenizer": self._tokenizer}
