"""Samples: what models continue prompts with, and prompts from validation text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from inheritune.arch import logits_width, position_count
from inheritune.data import BEGINS, COUNTS, CannotRender, ChatTemplate, Conversation, Prepared
from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROMPT_LENGTH = 24  # tokens of a validation document that make a prompt
_SEARCHED = 2**18  # validation tokens in which the starts of documents are looked for


def document_starts(prepared: Prepared, tokenizer: "PreTrainedTokenizerBase", count: int) -> list[str]:
    """The first words of up to `count` validation documents, spread evenly over the text, no two alike.

    Where the tokens do not show where documents start, places spread evenly are taken instead. Of conversations it is
    all up to the assistant's first turn, special tokens spelt out, or without known turns as much as of documents.
    """
    if prepared.has_conversations:
        return _conversation_starts(prepared, tokenizer, count)
    tokens = prepared.tokens("validation")
    row = tokens.read(0, min(len(tokens), _SEARCHED)).tolist()
    end = prepared.manifest["end_of_text"]
    starts = [0, *(place + 1 for place, token in enumerate(row) if token == end)]
    starts = [place for place in starts if place < len(row) - 1]
    if len(starts) < count:
        starts = [number * len(row) // count for number in range(count)]
    prompts: list[str] = []
    for place in [*starts[:: max(1, len(starts) // count)], *starts]:
        piece = row[place : place + _PROMPT_LENGTH]
        piece = piece[: piece.index(end)] if end in piece else piece
        text = str(tokenizer.decode(piece, skip_special_tokens=True)).strip()
        if text and text not in prompts and len(prompts) < count:
            prompts.append(text)
    return prompts


def _conversation_starts(prepared: Prepared, tokenizer: "PreTrainedTokenizerBase", count: int) -> list[str]:
    tokens = prepared.tokens("validation")
    assert tokens.marks is not None
    size = min(len(tokens), _SEARCHED)
    row, marks = tokens.read(0, size), tokens.marks.read(0, size)
    starts = np.flatnonzero(marks & BEGINS)
    prompts: list[str] = []
    for start in [*starts[:: max(1, len(starts) // count)], *starts]:
        counted = np.flatnonzero(marks[start + 1 :] & COUNTS)  # nothing predicts the first token
        length = int(counted[0]) + 1 if len(counted) and counted[0] else _PROMPT_LENGTH
        text = str(tokenizer.decode(row[start : start + length].tolist(), skip_special_tokens=False))
        if text not in prompts and len(prompts) < count:
            prompts.append(text)
    return prompts


def greedy_answer(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", message: str, count: int) -> str:
    """The assistant's answer to a user's message, as `greedy_continuation` of the chat template.

    It also ends where the model's settings for generation say. Raises InputError for a template that does not take it.
    """
    template = ChatTemplate(tokenizer, "tokenizer", assistant_only=False)
    try:
        prompt = template.prompt(Conversation([{"role": "user", "content": message}]))
    except CannotRender as error:
        raise InputError("evaluate.prompts", error.what, "correct the template, or set evaluate.prompts: []") from None
    return greedy_continuation(model, tokenizer, prompt, count, (), turn_ends(model))


def turn_ends(model: "PreTrainedModel") -> list[int]:
    """The tokens that end a turn, by the model's settings for generation."""
    ends = None if model.generation_config is None else model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list) else [] if ends is None else [int(ends)]


def greedy_continuation(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, count: int, prefix: Sequence[int],
    ends: Sequence[int] = (),
) -> str:  # fmt: skip
    """The continuation of a prompt after the tokens `prefix`, by the likeliest token each time.

    It ends after `count` tokens, at the end-of-text token, or at one of `ends`. Entries of the model's vocabulary that
    the tokenizer does not have are never chosen. Where prompt and continuation exceed the model's positions, the
    continuation is shorter, and the model sees only the last tokens of a prompt that takes more than half of the
    positions.
    """
    from transformers import GenerationConfig

    # without special tokens, as an added token at the end would end the text
    text = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    positions = position_count(model.config)
    if positions is not None:
        text = text[-max(1, max(positions - count, positions // 2) - len(prefix)) :]
        count = min(count, positions - len(prefix) - len(text))
    ids = torch.tensor([[*prefix, *text]], device=model.device)
    end = tokenizer.eos_token_id
    nameless = sorted(set(range(logits_width(model))) - set(tokenizer.get_vocab().values()))  # rows that pad the matrix
    settings = GenerationConfig(
        do_sample=False, max_new_tokens=count, eos_token_id=[end, *ends] if ends else end, pad_token_id=end,
        suppress_tokens=nameless or None,
    )  # fmt: skip
    with torch.no_grad():
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0]
    before = tokenizer.decode(ids[0], skip_special_tokens=True)
    whole = tokenizer.decode(tokens, skip_special_tokens=True)
    return str(whole[len(before) :] if whole.startswith(before) else whole)
