"""A tiny reference of six blocks and suites that take seconds."""

from pathlib import Path
from typing import Any

import yaml

BLOCKS = 6


def make_reference(folder: Path, tokenizer: Any, blocks: int = BLOCKS, vocabulary: int | None = None) -> Path:
    """A random GPT-2 in which no two tensors are alike, with its tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary or len(tokenizer), n_embd=16, n_layer=blocks, n_head=4, n_positions=32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))  # norms and biases too
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_suite(text: Path, reference: Path | None, arms: list[Any], **more: Any) -> dict[str, Any]:
    """A suite with these arms; without `reference` it makes one first."""
    model = {"model_type": "gpt2", "n_layer": 4, "n_embd": 16, "n_head": 2, "n_positions": 32}
    made = {"train": {"model": model, "tokenizer": {"vocabulary": 300}, "length": "12 steps"}}
    suite = {
        "reference": str(reference) if reference else made,
        "data": {"sources": [{"path": str(text)}], "validation": "600 tokens"},
        "train": {
            "length": "8 steps", "batch": "4 sequences", "sequence_length": 16, "micro_batch": 4,
            "optimizer": {"learning_rate": 0.003}, "schedule": {"warm_up": "1 steps"}, "checkpoint": {"every": "2 steps"},
        },
        "evaluate": {"every": "2 steps", "sequences": 8},
        "arms": arms,
    }  # fmt: skip
    return suite | more


def without_models(file: Path) -> list[str]:
    """Overrides of a suite for arms whose weights come from a file that is not here: they take the reference's."""
    arms = yaml.safe_load(file.read_text(encoding="utf-8"))["arms"]
    starts = [(number, arm["start"]) for number, arm in enumerate(arms) if isinstance(arm["start"], dict)]
    return [f"arms.{number}.start.of=null" for number, start in starts if str(start.get("of")).endswith(".gguf")]
