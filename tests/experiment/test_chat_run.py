"""A run on conversations: judged on the assistant's turns, resumed with the same bits, answers on its page."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from chats import chat_tokenizer, some_chats, write_chats
from conftest import tiny_recipe, weights
from cut_off import Killed
from inheritune.data import open_prepared
from inheritune.experiment import run
from inheritune.recipe import load_recipe
from inheritune.results import RunSummary, Samples
from inheritune.training.step import Stepper


@pytest.fixture
def recipe(reference_folder: Path, tokenizer: Any, write_recipe: Any, tmp_path: Path) -> Path:
    """A reference that is a chat model, and conversations of which some are longer than a sequence."""
    from transformers import LlamaConfig, LlamaForCausalLM

    own, folder = chat_tokenizer(tokenizer), tmp_path / "reference"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(own), hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=0, eos_token_id=own.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    own.save_pretrained(folder)
    tree = tiny_recipe(tmp_path, folder) | {"grow": None, "controls": []}
    chats = write_chats(tmp_path / "chats.jsonl", some_chats(60))
    source = {"path": str(chats), "messages_key": "messages"}
    tree["data"] = {"sources": [source], "validation": "600 tokens", "assistant_only_loss": True, "workers": 1}
    tree["train"] |= {"sequence_length": 64, "distillation": {"student": 0.5}}
    tree["evaluate"] |= {"prompts": ["the small model"], "analyze": True, "new_tokens": "6 tokens"}
    return write_recipe(tree)


def cut_off_in_step(number: int) -> Any:
    """`Stepper.launch`, which is cut off in this step."""
    launch = Stepper.launch

    def broken(self: Stepper, step: int, *more: Any) -> Any:
        if step == number:
            raise Killed
        return launch(self, step, *more)

    return broken


@pytest.mark.long
def test_a_run_on_conversations(recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "inheritune")
    folder, spec = tmp_path / "run", load_recipe(recipe)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Stepper, "launch", cut_off_in_step(7))
        run(spec, folder)
    assert list((folder / "rounds").glob("*/checkpoints/step-*"))
    run(spec, folder)
    run(load_recipe(recipe, ["--evaluate.analyze=false", "--evaluate.prompts=[]"]), tmp_path / "straight")
    model = Path(RunSummary.read(folder / "summary.json").result.model)
    assert weights(folder / model) == weights(tmp_path / "straight" / model)
    assert any(
        "conversations fill" in line and "are longer: only their beginning is kept" in line for line in caplog.messages
    )
    assert (folder / "analysis" / "analysis.json").exists()
    samples = Samples.read(folder / "samples.json")
    assert samples.as_messages
    assert "users' messages in the models' chat template" in (folder / "report" / "report.md").read_text(
        encoding="utf-8"
    )
    page = (folder / "report" / "report.md").read_text(encoding="utf-8")
    assert "conversations, and the losses are over the assistant's turns" in page
    # the recorded loss is the mean over the assistant's tokens, each conversation cut at the length of a sequence
    tokens = open_prepared(folder / "data").tokens("validation")
    assert tokens.marks is not None
    loss = json.loads((folder / "reference" / "evaluation.json").read_text())["val_loss"]
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "reference")
    assert loss == pytest.approx(slow_loss(reference, tokens.read().tolist(), tokens.marks.read().tolist()), rel=1e-4)


def slow_loss(model: Any, tokens: list[int], marks: list[int]) -> float:
    """The mean over all counted tokens; conversations share a sequence of 65 tokens as long as they fit."""
    begins = [place for place, mark in enumerate(marks) if mark & 2]
    pieces = [range(first, last) for first, last in zip(begins, [*begins[1:], len(tokens)], strict=True)]
    rows: list[list[int]] = []
    for piece in pieces:
        places = list(piece)[:65]
        if rows and len(piece) <= 65 and len(rows[-1]) + len(piece) <= 65:
            rows[-1] += places
        else:
            rows.append(places)
    total, count = 0.0, 0
    for places in rows:
        ids = torch.tensor([[tokens[place] for place in places]])
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
        counted = torch.tensor([bool(marks[place] & 1) for place in places[1:]])
        total, count = total + float(losses[counted].sum()), count + int(counted.sum())
    return total / count
