"""The code of docs/using.md for TRL and PEFT, run by the Python that INHERITUNE_COMPAT_PYTHON names."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from chats import chat_tokenizer
from inheritune import inherit

PAGE = Path(__file__).parents[2] / "docs" / "using.md"
MODEL = "runs/smaller/rounds/1-15layers/model"

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


def code_blocks() -> list[str]:
    """The Python code of the page's part on TRL and PEFT."""
    part = PAGE.read_text(encoding="utf-8").partition("## TRL and PEFT")[2].partition("\n## ")[0]
    return [piece.partition("\n```")[0] for piece in part.split("```python\n")[1:]]


def test_trl_trains_adapters_and_peft_merges_them(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = chat_tokenizer(tokenizer)
    config = LlamaConfig(
        vocab_size=len(own), hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=own.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "reference")
    own.save_pretrained(tmp_path / "reference")
    inherit(tmp_path / "reference", 2, out=tmp_path / MODEL)
    train, merge = code_blocks()
    python = os.environ["INHERITUNE_COMPAT_PYTHON"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    for code in (train, merge):
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    first, merged = (AutoModelForCausalLM.from_pretrained(tmp_path / place) for place in (MODEL, "merged"))
    assert type(merged) is type(first)
    words = own.apply_chat_template([{"role": "user", "content": "What is a lexicon?"}], return_tensors="pt")
    words = words if torch.is_tensor(words) else words["input_ids"]
    answer = own("A dictionary.", return_tensors="pt", add_special_tokens=False)["input_ids"]
    given = torch.cat([words, answer], dim=1)
    with torch.no_grad():
        before, after = (model(given, labels=given).loss for model in (first, merged))
    assert after < before
    inherit(tmp_path / "merged", 1, out=tmp_path / "again")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again").config.num_hidden_layers == 1
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "again")("the small model").input_ids
        == own("the small model").input_ids
    )
