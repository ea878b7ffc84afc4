"""What a smaller vocabulary costs: how text is split, and the loss per byte, beside those of the reference."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from inheritune.data import prefix_tokens
from inheritune.errors import InputError
from inheritune.evaluation.statistics import Estimate, ratio

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Judged = tuple[PreTrainedModel, PreTrainedTokenizerBase]


@dataclass(frozen=True)
class Split:
    """How two tokenizers split the same texts."""

    reference_tokens: int
    tokens: int
    same: float
    """The share of the reference's tokens that stand at the same place in the other split."""

    @property
    def longer(self) -> float:
        """By which share the texts are longer in tokens."""
        return self.tokens / self.reference_tokens - 1


@dataclass(frozen=True)
class VocabularyCost:
    """Splits of the same texts, and losses in nats per byte, clustered by text."""

    split: Split
    reference: Estimate
    trimmed: Estimate
    gap: Estimate
    """The trimmed model's loss less the reference's, paired."""


def compare_vocabularies(reference: "Judged", trimmed: "Judged", texts: Sequence[str]) -> VocabularyCost:
    """Compare a model with one of fewer tokens on `texts`, each read by itself.

    Raises InputError as `text_losses` does.
    """
    split = compare_splits(reference[1], trimmed[1], texts)
    before, after = (text_losses(model, tokenizer, texts) for model, tokenizer in (reference, trimmed))
    return cost(split, before, after, texts)


def cost(split: Split, before: Sequence[float], after: Sequence[float], texts: Sequence[str]) -> VocabularyCost:
    """The comparison of two models' `text_losses`."""
    sizes = [len(text.encode()) for text in texts]
    differences = [right - left for left, right in zip(before, after, strict=True)]
    return VocabularyCost(split, ratio(before, sizes), ratio(after, sizes), ratio(differences, sizes))


def compare_splits(
    reference: "PreTrainedTokenizerBase", other: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> Split:
    """How two tokenizers whose tokens have the same names split `texts`, without special tokens around them."""
    counts, same = [0, 0], 0
    for text in texts:
        placed = [_placed(tokenizer, text) for tokenizer in (reference, other)]
        for at, tokens in enumerate(placed):
            counts[at] += tokens.total()
        same += (placed[0] & placed[1]).total()
    return Split(counts[0], counts[1], same / max(1, counts[0]))


def _placed(tokenizer: "PreTrainedTokenizerBase", text: str) -> Counter[tuple[str, int, int]]:
    """The tokens of a text with the characters that they begin and end at."""
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    names = tokenizer.convert_ids_to_tokens(found["input_ids"])
    return Counter((name, start, stop) for name, (start, stop) in zip(names, found["offset_mapping"], strict=True))


def text_losses(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]
) -> list[float]:  # fmt: skip
    """The loss of each text in nats, summed over its tokens, each text behind the tokenizer's prefix.

    Without a prefix, the end-of-text token stands before the text, so that its first token is predicted too. Raises
    InputError for an empty text, and where there is neither prefix nor end-of-text token.
    """
    import torch

    before = prefix_tokens(tokenizer) or ((tokenizer.eos_token_id,) if tokenizer.eos_token_id is not None else ())
    if not before:
        raise InputError("tokenizer", "has neither a prefix nor an end-of-text token", "set eos_token")
    losses = []
    for number, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not ids:
            raise InputError(f"text {number}", "is empty", "leave it out")
        tokens_BT = torch.tensor([[*before, *ids]], device=model.device)
        with torch.no_grad():
            logits_TV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits[0, len(before) - 1 :].float()
        chosen_T = logits_TV.gather(1, tokens_BT[0, len(before) :, None])[:, 0]
        losses.append(float((logits_TV.logsumexp(1) - chosen_T).double().sum()))
    return losses
