"""What a smaller vocabulary costs, against transformers' own loss and splits counted by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from conftest import SENTENCE
from inheritune.errors import InputError
from inheritune.evaluation import compare_splits, compare_vocabularies, text_losses
from inheritune.inheritance import trim_vocabulary

KEPT = SENTENCE[:26]
TEXTS = [SENTENCE, "Document 3. the small model 東京", "learns again"]


def loaded(folder: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def plainly(model: Any, tokenizer: Any, text: str) -> float:
    """The loss as transformers computes it, summed, behind the end-of-text token."""
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        mean = model(input_ids=ids, labels=ids).loss
    return float(mean) * (ids.shape[1] - 1)


@pytest.fixture(scope="module")
def pair(reference_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    out = tmp_path_factory.mktemp("small") / "model"
    trim_vocabulary(reference_folder, [KEPT], out=out)
    return loaded(reference_folder), loaded(out)


def test_losses_are_those_of_transformers(pair: tuple[Any, Any]) -> None:
    for model, tokenizer in pair:
        assert text_losses(model, tokenizer, TEXTS) == pytest.approx([plainly(model, tokenizer, one) for one in TEXTS])
    found = compare_vocabularies(*pair, TEXTS)
    size = sum(len(text.encode()) for text in TEXTS)
    sums = [sum(plainly(*each, text) for text in TEXTS) for each in pair]
    assert found.reference.value == pytest.approx(sums[0] / size)
    assert found.trimmed.value == pytest.approx(sums[1] / size)
    assert found.gap.value == pytest.approx((sums[1] - sums[0]) / size)
    assert found.gap.error is not None


def test_splits(pair: tuple[Any, Any]) -> None:
    (_, before), (_, after) = pair
    same = compare_splits(before, after, [KEPT])
    assert (same.longer, same.same) == (0, 1)
    gone = sorted(before.get_vocab().keys() - after.get_vocab().keys(), key=len)[-1]
    text = f"the {gone.removeprefix('Ġ')} small"
    names = [tokenizer.tokenize(text) for tokenizer in (before, after)]
    at = names[0].index(gone)
    assert names[0][:at] == names[1][:at]
    rest = len(names[0]) - at - 1
    assert names[0][-rest:] == names[1][-rest:]
    found = compare_splits(before, after, [text])
    assert (found.reference_tokens, found.tokens) == (len(names[0]), len(names[1]))
    assert found.longer == len(names[1]) / len(names[0]) - 1 > 0
    assert found.same == 1 - 1 / len(names[0])


def test_a_text_needs_tokens_and_something_before_it(pair: tuple[Any, Any]) -> None:
    (model, tokenizer), _ = pair
    with pytest.raises(InputError, match="text 1: is empty"):
        text_losses(model, tokenizer, ["a", ""])
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(InputError, match="neither a prefix nor an end-of-text token"):
        text_losses(model, bare, ["a"])
