"""Chat templates: a conversation as the text that its model knows, the assistant's turns in it, and their tokens.

Where a template marks the assistant's turns (`{% generation %}`), its marks decide. Otherwise each turn lies between
two texts that the template makes of the messages before it: with and without the turn. The text of the whole
conversation must begin with both.
"""

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from inheritune.data.conversations import BEGINS, COUNTS
from inheritune.data.shards import Array
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ENCODING = threading.Lock()  # one thread at a time may call a tokenizer of transformers
Spans = tuple[tuple[int, int], ...]


class CannotRender(Exception):
    """Says why a record is no conversation, or one that the template does not take, and the remedy."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


@dataclass(frozen=True)
class Conversation:
    """Messages as dictionaries with a `role`, and mostly a `content`; `tools` are those that the assistant may call."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Rendered:
    """A conversation as text. `counted` are the stretches of characters whose tokens are targets."""

    text: str
    counted: Spans


class ChatTemplate:
    """The chat template of a tokenizer. With `assistant_only` only the assistant's turns are targets."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", place: str, assistant_only: bool) -> None:
        """Raises InputError, naming `place`, for a tokenizer without a template or without tokenizer.json."""
        if not tokenizer.chat_template:
            what = "conversations need a chat template, and the tokenizer has none"
            remedy = "give a chat model (mostly called Instruct, Chat or it), or put a chat_template.jinja beside it"
            raise InputError(place, what, remedy)
        if not tokenizer.is_fast:
            what = "the tokenizer does not tell which characters its tokens are of"
            raise InputError(place, what, "give one that has a tokenizer.json")
        self.assistant_only, self._tokenizer = assistant_only, tokenizer
        self._special_tokens = dict(tokenizer.special_tokens_map)
        added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._ends = tuple({*tokenizer.all_special_tokens, *added})

    @property
    def digest(self) -> str:
        """A hash of what decides texts and targets, besides the tokenizer itself."""
        facts = [self._tokenizer.chat_template, self._special_tokens, self.assistant_only]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()

    def render(self, conversation: Conversation) -> Rendered:
        """The text of a conversation and its targets. Raises CannotRender."""
        messages, tools = conversation.messages, conversation.tools
        if not self.assistant_only:
            text = self._text(messages, tools)[0]
            return Rendered(text, ((0, len(text)),))
        if not any(message["role"] == "assistant" for message in messages):
            raise CannotRender("no turn of the assistant, and only these count", "set data.assistant_only_loss: false")
        text, marked = self._text(messages, tools)
        turns = self._turns(messages, tools, text) if marked is None else marked
        if not turns:
            what = "the chat template marks no turn of the assistant ({% generation %})"
            raise CannotRender(what, "correct the template, or set data.assistant_only_loss: false")
        return Rendered(text, turns)

    def prompt(self, conversation: Conversation) -> str:
        """The text after which the assistant's next turn begins. Raises CannotRender."""
        return self._text(conversation.messages, conversation.tools, answer_follows=True)[0]

    def as_user(self, text: str) -> Rendered:
        """A text as the only message of a user; its own characters are the targets. Raises CannotRender."""
        whole, own = self._text([{"role": "user", "content": text}], None)[0], text.strip()
        start = whole.rfind(own)
        if start < 0 or not own:
            what = "the chat template does not contain the user's message as it is"
            raise CannotRender(what, "judge the text without --chat")
        return Rendered(whole, ((start, start + len(own)),))

    def encode(self, rendered: Sequence[Rendered]) -> list[tuple[list[int], Array]]:
        """The ids of each conversation, and their marks (`data.conversations`).

        A token counts where one of its characters is in a counted stretch. Special tokens in the text are read as such,
        as the chat template of transformers has it.
        """
        with _ENCODING:
            encoded = self._tokenizer(
                [one.text for one in rendered], add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], rendered, strict=True)
        return [(ids, _marks(offsets, one.counted)) for ids, offsets, one in pairs]

    def _turns(self, messages: list[dict[str, Any]], tools: Any, text: str) -> Spans:
        turns: list[tuple[int, int]] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._text(messages[:number], tools, answer_follows=True)[0] if number else ""
            after = self._text(messages[: number + 1], tools)[0]
            last = turns[-1][1] if turns else 0
            is_apart = last <= len(before) < len(after)
            if not number or not is_apart or not (text.startswith(before) and text.startswith(after)):
                what = f"the chat template does not show where message {number + 1} of {len(messages)} begins and ends"
                if not number:
                    what = "it begins with the assistant, and the chat template does not show where that turn begins"
                remedy = "mark the assistant's turns in the template with {% generation %} and {% endgeneration %}"
                raise CannotRender(what, f"{remedy}, or set data.assistant_only_loss: false")
            turn = text[len(before) : len(after)]
            whole = turn.rstrip()
            turns.append((len(before), len(before) + len(whole if whole.endswith(self._ends) else turn)))
        return tuple(turns)

    def _text(
        self, messages: list[dict[str, Any]], tools: Any, *, answer_follows: bool = False
    ) -> tuple[str, Spans | None]:
        """The text, and the turns that the template marks (None: it has no such marks)."""
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            template = self._tokenizer.get_chat_template(tools=tools)
            marks = _GENERATION.search(template) is not None
            texts, turns = render_jinja_template(
                conversations=[messages], tools=tools, chat_template=template, return_assistant_tokens_mask=marks,
                add_generation_prompt=answer_follows, **self._special_tokens,
            )  # fmt: skip
        except Exception as error:  # of jinja, or of a template's own code
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            what = f"the chat template does not take it ({reason})"
            raise CannotRender(what, "correct or remove the record") from None
        return texts[0], tuple((start, end) for start, end in turns[0] if start < end) if marks else None

    def __deepcopy__(self, memo: dict[int, Any]) -> "ChatTemplate":
        """Return itself, as it never changes: each task would copy the tokenizer otherwise."""
        return self


def _marks(offsets: Sequence[tuple[int, int]], counted: Spans) -> Array:
    begins, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    is_target = np.zeros(len(begins), bool)
    for start, end in counted:
        is_target |= (begins < end) & (ends > start)
    marks = is_target.astype(np.uint8) * np.uint8(COUNTS)
    marks[:1] = BEGINS
    return marks
