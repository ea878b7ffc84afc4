"""A new tokenizer, and the fingerprint by which prepared data knows its own."""

import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from inheritune.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

END_OF_TEXT = "<|endoftext|>"
_PROBE = "The quick brown fox: 3.14 x 10^2\n\tdef f(x):\n    return 'naïve – 東京' # ÄÖ\r\n"


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> "PreTrainedTokenizerBase":
    """A byte-level BPE tokenizer (as GPT-2's) of exactly `vocabulary` entries, learnt from `texts`.

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
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A hash of what a tokenizer does: its vocabulary, its end-of-text token and its split of a probe text."""
    facts = [
        sorted(tokenizer.get_vocab().items()),
        tokenizer.eos_token_id,
        tokenizer(_PROBE, add_special_tokens=False)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(facts, ensure_ascii=True).encode()).hexdigest()


def separator(tokenizer: "PreTrainedTokenizerBase", place: str) -> int:
    """The id put behind every document. Raises InputError for a tokenizer without an end-of-text token."""
    token = tokenizer.eos_token_id
    if not isinstance(token, int):
        raise InputError(
            place,
            "the tokenizer has no end-of-text token (eos_token)",
            "set eos_token in its tokenizer_config.json",
        )
    return token
