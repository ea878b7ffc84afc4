"""What a tokenizer's tokens are made of: which must stay so that every text can be spelled, which stay with others."""

import json
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = ("BPE", "Unigram", "WordPiece", "WordLevel")
"""The models of tokenizers that can lose tokens."""

_REMEDY = "keep the full vocabulary, or give a tokenizer that has a tokenizer.json (reference.tokenizer)"
_RESERVED = re.compile(r"unused|reserved|placeholder|^<SPECIAL_\d+>$|^\[control_\d+\]$", re.IGNORECASE)
"""Added tokens of no use yet: Gemma's <unused0>, Llama's <|reserved_special_token_0|>, Mistral's <SPECIAL_20>."""


def core_fields(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """A tokenizer's tokenizer.json. Raises InputError for a tokenizer that cannot lose tokens, with the reason."""
    kind = type(tokenizer)
    place = tokenizer.name_or_path or kind.__name__
    if not kind.__module__.startswith("transformers."):
        raise InputError(place, f"its vocabulary cannot shrink: {kind.__name__} is code of its own", _REMEDY)
    if not tokenizer.is_fast:
        what = f"its vocabulary cannot shrink: {kind.__name__} works without a tokenizer.json"
        raise InputError(place, what, _REMEDY)
    fields: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    if fields["model"].get("type") not in KINDS:
        what = f"its vocabulary cannot shrink: its model is {fields['model'].get('type')}"
        raise InputError(place, what, f"{_REMEDY}; legal models are {', '.join(KINDS)}")
    return fields


def named_in(processor: Any) -> set[str]:
    """The tokens that a post-processor of a tokenizer.json puts around a text."""
    if not isinstance(processor, dict):
        return set()
    names = {processor[part][0] for part in ("sep", "cls") if part in processor}
    for one in (processor.get("special_tokens") or {}).values():
        names |= set(one["tokens"])
    return names.union(*(named_in(one) for one in processor.get("processors", ())))


class TokenParts:
    """What the tokens of a tokenizer need so that text is split into them as before.

    Raises InputError for a tokenizer that cannot lose tokens.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        fields = core_fields(tokenizer)
        self._tokenizer, self._model = tokenizer, fields["model"]
        self._added: list[dict[str, Any]] = fields["added_tokens"]
        self._around = named_in(fields["post_processor"])
        words = self._model["vocab"]
        self._ids: dict[str, int] = (
            {word: index for index, (word, _) in enumerate(words)} if isinstance(words, list) else words
        )
        self._prefix: str = self._model.get("continuing_subword_prefix") or ""
        self._suffix: str = self._model.get("end_of_word_suffix") or ""
        self.ids = frozenset(self._ids.values()) | {one["id"] for one in self._added}

    @cached_property
    def always(self) -> frozenset[int]:
        """The tokens that stay, whatever the text is, so that every text that could be spelled still can be.

        Bytes, single characters where no bytes stand in for them, special and added tokens (but those reserved for
        later use), and what a chat template writes by itself.
        """
        ids = {one["id"] for one in self._added} - self.reserved
        ids |= {self._ids[name] for name in self._bytes}
        ids |= self._characters() | self._in_template()
        if self._model["type"] == "Unigram":
            words = self._model["vocab"]  # unknown characters cost more than the least likely entry
            ids.add(min(range(len(words)), key=lambda at: words[at][1]))
            if self._model["unk_id"] is not None:
                ids.add(self._model["unk_id"])
        elif self._model.get("unk_token") in self._ids:
            ids.add(self._ids[self._model["unk_token"]])
        return frozenset().union(*(self.of(index) for index in ids))

    def of(self, token: int) -> frozenset[int]:
        """`token`, and the tokens that merges make on the way to it.

        Merges inside a token of a text are those of the token alone, since no merge crosses its ends: so a text all of
        whose tokens are kept in this way is split as before.
        """
        if self._model["type"] != "BPE" or token not in self._names:
            return frozenset((token,))
        symbols = self._symbols(self._names[token])
        made = set(symbols)
        while len(symbols) > 1:
            pairs = list(pairwise(symbols))
            ranks = [self._ranks.get(pair, len(self._ranks)) for pair in pairs]
            at = min(range(len(pairs)), key=ranks.__getitem__)
            if ranks[at] == len(self._ranks):  # merges do not lead to it: it is matched as a whole
                return frozenset((token,))
            symbols[at : at + 2] = [self._joined(*pairs[at])]
            made.add(symbols[at])
        return frozenset(self._ids[one] for one in made if one in self._ids) | {token}

    @cached_property
    def reserved(self) -> frozenset[int]:
        """Added tokens that are there for later use, by their names, and that neither tokenizer nor template use."""
        tokenizer = self._tokenizer
        template = json.dumps(tokenizer.chat_template or "", ensure_ascii=False)
        used = {word for name, word in tokenizer.special_tokens_map.items() if name.endswith("_token")} | self._around
        return frozenset(
            one["id"]
            for one in self._added
            if _RESERVED.search(one["content"]) and one["content"] not in used and one["content"] not in template
        )

    def _in_template(self) -> set[int]:
        """The tokens of two conversations of which little but the chat template's own words is seen."""
        if not self._tokenizer.chat_template:
            return set()
        turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant", "user")]
        ids: set[int] = set()
        for conversation in (turns, turns[1:]):
            for opened in (True, False):
                try:
                    text = self._tokenizer.apply_chat_template(
                        conversation, tokenize=False, add_generation_prompt=opened
                    )
                except Exception:  # a template refuses what it does not know, such as a system message, as it likes
                    continue
                ids |= set(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids & self.ids

    @cached_property
    def _bytes(self) -> list[str]:
        """The names of the tokens that spell bytes; none where characters without a token are unknown."""
        names = [f"<0x{number:02X}>" for number in range(256)]
        return names if self._model.get("byte_fallback") and all(name in self._ids for name in names) else []

    def _characters(self) -> set[int]:
        """The tokens of single characters, and those with a character that has no token of its own.

        Where bytes stand in for them, only the characters that the decoder turns into others, such as the mark of a
        space: spelled in bytes, they would not be.
        """
        if self._model["type"] == "WordLevel":
            return set()
        if self._bytes:
            decoder = self._tokenizer.backend_tokenizer.decoder
            single = [word for word in self._ids if len(word) == 1]
            changed = (word for word in single if decoder and decoder.decode(["a", word, "a"]) != f"a{word}a")
            return {self._ids[word] for word in changed}
        added = {one["id"] for one in self._added}
        return {
            index
            for word, index in self._ids.items()
            if len(symbols := self._symbols(word)) == 1
            or (index not in added and any(one not in self._ids for one in symbols))
        }

    def _symbols(self, word: str) -> list[str]:
        """What a word or a part of one is spelled with, before any merge."""
        is_part = bool(self._prefix) and word.startswith(self._prefix) and word != self._prefix
        is_end = bool(self._suffix) and word.endswith(self._suffix) and word != self._suffix
        letters = word[len(self._prefix) * is_part : len(word) - len(self._suffix) * is_end]
        symbols = [(self._prefix if at or is_part else "") + letter for at, letter in enumerate(letters)]
        if is_end:
            symbols[-1] += self._suffix
        return [part for symbol in symbols for part in self._spelled(symbol)]

    def _spelled(self, symbol: str) -> Iterator[str]:
        if symbol in self._ids or not self._bytes:
            yield symbol
        else:
            yield from (self._bytes[number] for number in symbol.encode())

    def _joined(self, left: str, right: str) -> str:
        return left + right[len(self._prefix) :]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {index: word for word, index in self._ids.items()}

    @cached_property
    def _ranks(self) -> dict[tuple[str, str], int]:
        return {(left, right): rank for rank, (left, right) in enumerate(self._model["merges"])}
