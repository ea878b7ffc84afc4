"""The validation loss of models by transformers alone, to set beside what inheritune reports.

    python benchmarks/plain_losses.py DATA MODEL [MODEL ...] [--length 256]

DATA is what `inheritune prepare` or a run wrote, MODEL a folder or a .gguf file. Nothing of inheritune is imported.
Tokens are read from the shards, and one sequence passes at a time in float32. What the model's own tokenizer puts
before a text stands before each sequence and each document.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--length", type=int, default=256)
    given = parser.parse_args()
    manifest = json.loads((given.data / "manifest.json").read_text(encoding="utf-8"))
    files = [given.data / shard["file"] for shard in manifest["shards"]["validation"]]
    tokens = np.concatenate([np.fromfile(file, manifest["dtype"]) for file in files]).astype(np.int64).tolist()
    for place in given.models:
        where = (place.parent, {"gguf_file": place.name}) if place.suffix == ".gguf" else (place, {})
        model = AutoModelForCausalLM.from_pretrained(where[0], **where[1], dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(where[0], **where[1])
        probe = tokenizer("a", return_special_tokens_mask=True)
        prefix = probe["input_ids"][: probe["special_tokens_mask"].index(0)]
        with_prefix = mean_loss(model, tokens, given.length, prefix, manifest["end_of_text"])
        without = mean_loss(model, tokens, given.length, [], manifest["end_of_text"])
        print(f"{place}: {with_prefix:.4f} with the prefix {prefix}, {without:.4f} without")


def mean_loss(model: torch.nn.Module, tokens: list[int], length: int, prefix: list[int], end: int) -> float:
    """Nats a token over all whole sequences of `length` predicted tokens."""
    shown = 0 if prefix else 1  # without a prefix the first token of a sequence is only seen
    losses = []
    for first in range(0, len(tokens) - shown - length + 1, length):
        ids, labels = list(prefix), [-100] * len(prefix)
        for at, token in enumerate(tokens[first : first + shown + length]):
            if prefix and at and tokens[first + at - 1] == end:
                ids += prefix
                labels += [-100] * len(prefix)
            ids.append(token)
            labels.append(token if at >= shown else -100)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        each = torch.nn.functional.cross_entropy(logits, torch.tensor(labels[1:]), reduction="sum")
        losses.append(each.item() / length)
    return math.fsum(losses) / len(losses)


if __name__ == "__main__":
    main()
