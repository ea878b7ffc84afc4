"""What the attack damages: a text, a model as a folder and as .gguf, prepared data, a training, a run, recipes."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).parent.parent
PLACES = {
    "text": "text", "model": "model", "sharded": "sharded", "gguf": "tiny.gguf", "data": "data", "trained": "trained",
    "run": "run", "recipe": "recipe.yaml", "suite": "suite.yaml", "analysis": "analysis",
}  # fmt: skip


def recipe_tree(text: str, model: str) -> dict[str, Any]:
    """A recipe whose run takes a second or two."""
    return {
        "reference": model,
        "data": {"sources": [{"path": text}], "validation": "200 tokens", "size": "1K tokens"},
        "inherit": {"layers": 1, "choose": "first"},
        "train": {
            "length": "2 steps", "batch": "2 sequences", "sequence_length": 16, "micro_batch": 2,
            "optimizer": {"learning_rate": 0.003}, "checkpoint": {"every": "2 steps"},
        },
        "grow": None,
        "evaluate": {"every": "2 steps", "sequences": 2, "analyze": False, "prompts": []},
    }  # fmt: skip


def suite_tree(text: str, model: str) -> dict[str, Any]:
    """A suite of two arms."""
    tree = recipe_tree(text, model)
    tree["evaluate"] = {"every": "2 steps", "sequences": 2}
    arms = [{"name": "random", "start": "random"}, {"name": "first", "start": {"kind": "inherit", "layers": 1}}]
    return {key: tree[key] for key in ("reference", "data", "train", "evaluate")} | {"arms": arms}


def make(folder: Path) -> None:
    """Write everything to `folder`; to be called in a process of its own."""
    sys.path[:0] = [str(TESTS), str(TESTS / "arch")]
    import test_gguf
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from conftest import make_text
    from inheritune.cli import main
    from inheritune.data import train_tokenizer

    text = make_text(folder / "text", 30, 60)
    tokenizer = train_tokenizer((file.read_text(encoding="utf-8") for file in sorted(text.iterdir())), 300)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, most in (("model", "1GB"), ("sharded", "30KB")):
        model.save_pretrained(folder / name, max_shard_size=most)
        tokenizer.save_pretrained(folder / name)
    (folder / "model" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n", encoding="utf-8")
    test_gguf.write(test_gguf.original(), folder / "tiny.gguf")
    place = {name: str(folder / path) for name, path in PLACES.items()}
    for name, tree in (("recipe", recipe_tree), ("suite", suite_tree)):
        content = yaml.safe_dump(tree(place["text"], place["model"]), sort_keys=False)
        Path(place[name]).write_text(content, encoding="utf-8")
    calls = [
        ["prepare", place["text"], "--tokenizer", place["model"], "--validation", "200 tokens", "--out", place["data"]],
        ["run", place["recipe"], "--out", place["run"]],
        ["train", place["model"], place["trained"], "--data", place["data"], "--length", "2 steps", "--batch",
         "2 sequences", "--sequence-length", "16"],
        ["analyze", place["model"], "--text", place["text"], "--sequences", "2", "--length", "16", "--out", place["analysis"]],
    ]  # fmt: skip
    for words in calls:
        if main([*words, "--quiet"]) != 0:
            raise RuntimeError(f"the good call failed: {' '.join(words)}")


def copy(material: Path, folder: Path, *names: str) -> None:
    """Copy some of it into a case's folder, under its own name."""
    for name in names:
        origin = material / PLACES[name]
        if origin.is_dir():
            shutil.copytree(origin, folder / PLACES[name], symlinks=True)
        else:
            shutil.copy(origin, folder / PLACES[name])


def edit_json(file: Path, change: Any) -> None:
    """Read a JSON file, call `change` with what it holds, and write what that returns, or what it was given."""
    held = json.loads(file.read_text(encoding="utf-8"))
    changed = change(held)
    file.write_text(json.dumps(held if changed is None else changed), encoding="utf-8")
