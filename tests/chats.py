"""Conversations for tests: a tokenizer with a chat template, templates of several kinds, and random conversations."""

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import SENTENCE

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' }}BEGIN{{ message.content + '<|im_end|>' }}END{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PLAIN = CHATML.replace("BEGIN", "").replace("END", "")
"""ChatML without marks of the assistant's turns."""
MARKED = CHATML.replace(
    "BEGIN{{ message.content + '<|im_end|>' }}END",
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}",
)
"""The same, with marks."""


def chat_tokenizer(tokenizer: Any, template: str = PLAIN) -> Any:
    """A copy of a tokenizer with ChatML's special tokens, of which <|im_end|> ends a text, and a template."""
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.chat_template = template
    return own


def some_chats(count: int, seed: int = 0, most: int = 3) -> list[list[dict[str, Any]]]:
    """Different conversations of 1 to `most` exchanges, some with a system message."""
    draw = random.Random(seed)
    words = SENTENCE.split()

    def say(number: int) -> str:
        return " ".join(draw.choices(words, k=draw.randint(1, 8))) + f" {number}"

    chats = []
    for number in range(count):
        chat = [{"role": "system", "content": "Be brief."}] if draw.random() < 0.3 else []
        for _ in range(draw.randint(1, most)):
            chat += [{"role": "user", "content": say(number)}, {"role": "assistant", "content": say(number)}]
        chats.append(chat)
    return chats


def write_chats(file: Path, chats: Sequence[Any], key: str = "messages") -> Path:
    file.write_text("".join(json.dumps({key: chat}) + "\n" for chat in chats), encoding="utf-8")
    return file


def slow_chat(tokenizer: Any, chat: Sequence[dict[str, Any]]) -> tuple[list[int], list[bool]]:
    """The ids of a conversation in ChatML, and which are the assistant's: message by message, by hand."""
    ids: list[int] = []
    own: list[bool] = []

    def add(text: str, counts: bool) -> None:
        some = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids.extend(some)
        own.extend([counts] * len(some))

    if chat[0]["role"] != "system":
        add("<|im_start|>system\nYou help.<|im_end|>\n", False)
    for message in chat:
        is_assistant = message["role"] == "assistant"
        add(f"<|im_start|>{message['role']}\n", False)
        add(f"{message['content']}<|im_end|>", is_assistant)
        add("\n", False)
    return ids, own
