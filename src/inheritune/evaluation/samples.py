"""Samples: what models continue prompts with, and prompts from validation text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from inheritune.arch import logits_width, position_count
from inheritune.data import Prepared

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_PROMPT_LENGTH = 24  # tokens of a validation document that make a prompt
_SEARCHED = 2**18  # validation tokens in which the starts of documents are looked for


def document_starts(prepared: Prepared, tokenizer: "PreTrainedTokenizerBase", count: int) -> list[str]:
    """The first words of up to `count` validation documents, spread evenly over the text, no two alike.

    Where the tokens do not show where documents start, places spread evenly are taken instead.
    """
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


def greedy_continuation(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, count: int, prefix: Sequence[int]
) -> str:
    """The continuation of a prompt after the tokens `prefix`, by the likeliest token each time.

    It ends after `count` tokens, or at the end-of-text token. Entries of the model's vocabulary that the tokenizer does
    not have are never chosen. Where prompt and continuation exceed the model's positions, the continuation is shorter,
    and the model sees only the last tokens of a prompt that takes more than half of the positions.
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
        do_sample=False, max_new_tokens=count, eos_token_id=end, pad_token_id=end, suppress_tokens=nameless or None
    )
    with torch.no_grad():
        tokens = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0]
    before = tokenizer.decode(ids[0], skip_special_tokens=True)
    whole = tokenizer.decode(tokens, skip_special_tokens=True)
    return str(whole[len(before) :] if whole.startswith(before) else whole)
