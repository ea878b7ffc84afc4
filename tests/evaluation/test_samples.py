"""Samples: the likeliest continuations, and prompts from validation text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from inheritune.data import open_prepared, prepare
from inheritune.evaluation import document_starts, greedy_continuation


def by_hand(model: Any, ids: list[int], count: int) -> list[int]:
    """The likeliest token each time, the whole sequence computed anew."""
    for _ in range(count):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids


@pytest.mark.parametrize(("prompt", "count"), [("the small model", 12), ("keeps some of the large", 3)])
def test_continuations_are_the_likeliest_tokens(
    prompt: str, count: int, reference_folder: Path, tokenizer: Any
) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)
    model.generation_config.do_sample, model.generation_config.temperature = True, 3.0  # a chat model's habit
    ids = tokenizer(prompt)["input_ids"]
    expected = tokenizer.decode(by_hand(model, ids, count)).removeprefix(tokenizer.decode(ids))
    assert greedy_continuation(model, tokenizer, prompt, count, ()) == expected


def test_a_prompt_and_its_continuation_fit_the_positions(reference_folder: Path, tokenizer: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(reference_folder)  # 64 positions
    ids = tokenizer("the small model keeps " * 20)["input_ids"]
    assert len(ids) > 64
    found = greedy_continuation(model, tokenizer, "the small model keeps " * 20, 1000, ())
    seen = ids[-32:]
    assert found == tokenizer.decode(by_hand(model, seen, 32)).removeprefix(tokenizer.decode(seen))


def test_prompts_are_the_starts_of_different_documents(text: Path, tokenizer: Any, tmp_path: Path) -> None:
    prepare({"sources": [{"path": str(text)}], "validation": "3K tokens"}, tokenizer, tmp_path / "data")
    prepared = open_prepared(tmp_path / "data")
    found = document_starts(prepared, tokenizer, 3)
    assert len(set(found)) == 3
    files = [file.read_text(encoding="utf-8") for file in text.iterdir()]
    assert all(sum(file.startswith(prompt) for file in files) == 1 for prompt in found)
    # token files that do not say where documents end
    prepared.manifest["end_of_text"] = None
    assert len(set(document_starts(prepared, tokenizer, 3))) == 3
