"""A run with a smaller vocabulary: the reference loses tokens first, and everything after it has the new ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import read_json, tiny_recipe
from inheritune.errors import InputError
from inheritune.experiment import run
from inheritune.recipe import Recipe


def recipe(text: Path, reference: Path, **inherit: Any) -> Recipe:
    tree = tiny_recipe(text, reference)
    tree["inherit"] |= inherit
    tree["evaluate"] = {"analyze": False, "prompts": []}
    tree["grow"] = None
    return Recipe.model_validate(tree)


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    """Text without most of the characters and words of the tokenizer's own."""
    folder = tmp_path_factory.mktemp("some")
    words = sorted({word for file in text.iterdir() for word in file.read_text(encoding="utf-8").split()})[::5]
    for number in range(60):
        chosen = (words[(number * 7 + at) % len(words)] for at in range(80))
        (folder / f"{number}.txt").write_text(" ".join(chosen), encoding="utf-8")
    return folder


def test_the_tokens_that_the_text_needs(some: Path, reference_folder: Path, tmp_path: Path) -> None:
    asked = recipe(some, reference_folder, vocabulary="text")
    summary = run(asked, tmp_path / "run")
    kept = summary.vocabulary
    assert kept is not None
    assert kept.tokens < kept.reference_tokens == 300
    assert kept.longer == 0
    assert kept.same == 1
    assert summary.reference.name == str(reference_folder)
    trimmed = tmp_path / "run" / "vocabulary" / "model"
    before, after = (AutoTokenizer.from_pretrained(place) for place in (reference_folder, trimmed))
    words = (some / "3.txt").read_text(encoding="utf-8")
    assert before.convert_ids_to_tokens(before(words)["input_ids"]) == after.convert_ids_to_tokens(
        after(words)["input_ids"]
    )
    whole = AutoModelForCausalLM.from_pretrained(reference_folder)
    small = AutoModelForCausalLM.from_pretrained(trimmed)
    ids = read_json(trimmed / "vocabulary.json")["kept"]
    with torch.no_grad():
        expected = whole(**before(words, return_tensors="pt")).logits[..., ids]
        logits = small(**after(words, return_tensors="pt")).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / summary.result.model)
    assert result.config.vocab_size == kept.tokens
    card = (tmp_path / "run" / summary.result.model / "README.md").read_text()
    assert f"{kept.tokens:,} of 300 tokens" in card
    again = run(asked, tmp_path / "run")
    assert again == summary


def test_a_number_of_tokens_that_cannot_be_is_refused(some: Path, reference_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vocabulary: 20 tokens are asked for; legal are"):
        run(recipe(some, reference_folder, vocabulary=20), tmp_path / "run")
    with pytest.raises(ValueError, match=r"inherit\.vocabulary: it goes with data.sources"):
        Recipe.model_validate(
            {"reference": "x", "data": {"prepared": "d"}, "inherit": {"vocabulary": 5}, "train": {"length": "1 steps"}}
        )
