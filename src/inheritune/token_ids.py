"""How many ids a tokenizer has."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vocabulary_size(tokenizer: "PreTrainedTokenizerBase") -> int:
    """1 + the largest id, added tokens included: the least rows of an embedding, and an upper bound of every token.

    `len(tokenizer)` counts entries, which are fewer where some ids are unused.
    """
    largest: int = max([*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder, -1])
    return 1 + largest
