"""Tiny runs and comparisons whose results must not change when the code around them does.

    python tests/golden/experiments.py FOLDER      computes them all in FOLDER, with FOLDER/results.json
    python tests/golden/experiments.py A B         compares two such folders: every number, weight and table of losses

`losses.json` beside this file holds the losses, which tests/golden/test_golden.py compares to six digits. The command
compares bits, as only one machine with the same versions can: run it before and after a change.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from inheritune.recipe import FIRST_HALF, HALF

sys.path.append(str(Path(__file__).parents[1]))

MODEL = {"model_type": "gpt2", "n_layer": 6, "n_embd": 16, "n_head": 2, "n_positions": 32}
MADE = {"train": {"model": MODEL, "tokenizer": {"vocabulary": 300}, "length": "12 steps"}}
TRAIN: dict[str, Any] = {
    "length": "8 steps", "batch": "4 sequences", "sequence_length": 16, "micro_batch": 2,
    "optimizer": {"learning_rate": 0.003}, "schedule": {"warm_up": "1 steps"}, "checkpoint": {"every": "3 steps"},
}  # fmt: skip
RENAMED = {"format": "version"}  # keys of files, by what they are called now
MEASURED = (
    "seconds",
    "second",
    "memory",
    "started",
    "versions",
    "device",
)  # parts of keys whose values are not results


def recipe(text: Path, **changes: Any) -> dict[str, Any]:
    """A recipe; `changes` replace or extend its parts."""
    tree: dict[str, Any] = {
        "reference": MADE, "data": {"sources": [{"path": str(text)}], "validation": "600 tokens"}, "train": TRAIN,
        "inherit": {"layers": 2, "choose": "first"}, "grow": {"by": 2, "max_layers": 4}, "controls": ["random"],
        "evaluate": {"every": "3 steps", "sequences": 4, "analyze": False, "prompts": []}, "recovery": "paper",
    }  # fmt: skip
    for key, value in changes.items():
        tree[key] = {**tree[key], **value} if isinstance(tree.get(key), dict) and isinstance(value, dict) else value
    return tree


def recipes(text: Path, reference: Path) -> dict[str, dict[str, Any]]:
    """Runs: rounds from the reference and from the round before, controls, teachers, measured choices, half width."""
    taught = {"distillation": {"outputs": "online"}}
    return {
        "paper": recipe(text),
        "trained": recipe(
            text, reference=str(reference), inherit={"layers": 2, "choose": "ends"}, controls=["random", "reference-continued"],
            grow={"by": 1, "max_layers": 4, "start": "trained", "function_preserving": True, "until": "max_layers"},
        ),
        "taught": recipe(text, reference=str(reference), train=taught, controls=["random", "reference-continued"]),
        "stored": recipe(text, train={"distillation": {"outputs": "stored", "top_k": 8}}, grow=None),
        "auto": recipe(
            text, reference=str(reference), inherit={"layers": 3, "choose": "auto", "calibration": "256 tokens", "recovery": "64 tokens"},
            evaluate={"analyze": True, "prompts": ["the small model"], "new_tokens": "4 tokens"},
        ),
        "narrow": recipe(text, grow=None, inherit={"layers": "all", "choose": "first", **FIRST_HALF}, controls=[]),
        "listed": recipe(text, reference=str(reference), grow=None, inherit={"layers": [0, 2, 5], "submodules": ["attention", "mlp", "embeddings"]}),
    }  # fmt: skip


def suite(text: Path, arms: list[Any], **changes: Any) -> dict[str, Any]:
    """A suite with these arms."""
    tree: dict[str, Any] = {
        "reference": MADE, "data": {"sources": [{"path": str(text)}], "validation": "600 tokens"}, "train": TRAIN,
        "evaluate": {"every": "3 steps", "sequences": 4}, "layers": 4, "arms": arms,
    }  # fmt: skip
    return tree | changes


def suites(text: Path, reference: Path) -> dict[str, dict[str, Any]]:
    """Comparisons: every start, arms that need each other, teachers, seeds, selections of text."""
    words = ("inherit", "lazy", "random", "stacking", "hybrid-stacking", "distilbert")
    arms: list[Any] = [{"name": word, "start": word} for word in words]
    arms += [
        {"name": "half", "start": "half-width"},
        {"name": "continued", "start": "reference"},
        {"name": "attention", "start": {"kind": "inherit", "submodules": ["attention"], "choose": "ends"}},
        {"name": "narrow random", "start": {"kind": "random", "layers": "all", **HALF}},
        {"name": "grown", "start": {"kind": "growth", "layers": 2, "grow": {"by": 2, "max_layers": 4, "start": "trained"}},
         "allow_unequal": "rounds"},
    ]  # fmt: skip
    needing: list[Any] = [
        {"name": "stacked of half", "start": {"kind": "stacking", "of": "half"}, "allow_unequal": "two"},
        {"name": "half", "start": {"kind": "random", "layers": 2}},
        {"name": "of taught", "start": {"kind": "inherit", "layers": 2, "of": "taught"}},
        {"name": "taught", "start": {"kind": "inherit", "choose": "rank"}, "train": {"distillation": {"outputs": "online"}}},
        {"name": "by taught", "start": "random", "teacher": "taught", "train": {"distillation": {"outputs": "stored"}}},
        {"name": "best", "start": "inherit", "train": {"checkpoint": {"every": "1 steps", "best": True}}},
        {"name": "elsewhere", "start": {"kind": "lazy", "of": str(reference), "layers": 2}},
        {"name": "less text", "start": "inherit", "data": {"size": "2K tokens"}},
        {"name": "long", "start": "inherit", "train": {"length": "11 steps"}, "allow_unequal": "longer"},
    ]  # fmt: skip
    return {"starts": suite(text, arms), "needing": suite(text, needing, seeds=[1, 2])}


def compute(folder: Path, chosen: list[str] | None = None) -> None:
    """Runs and comparisons in `folder`, and their results in results.json."""
    import inheritune
    from conftest import make_text
    from inheritune.data import train_tokenizer
    from inheritune.recipe import load_recipe
    from tiny_suites import make_reference

    folder = folder.resolve()
    text = make_text(folder / "text")
    tokenizer = train_tokenizer((file.read_text(encoding="utf-8") for file in sorted(text.iterdir())), 300)
    reference = make_reference(folder / "reference", tokenizer)
    for name, tree in {**recipes(text, reference), **suites(text, reference)}.items():
        if chosen is not None and name not in chosen:
            continue
        file, out = folder / f"{name}.yaml", folder / "out" / name
        file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
        if "arms" in tree:
            inheritune.compare(file, out)
        else:
            inheritune.run(load_recipe(file), out)
    found = results(folder / "out")
    (folder / "results.json").write_text(
        json.dumps(found, indent=1, sort_keys=True).replace(str(folder), "FOLDER"), encoding="utf-8"
    )


def results(out: Path) -> dict[str, Any]:
    """Every result below `out` by its place: JSON without what is measured, models and token files as hashes."""
    found: dict[str, Any] = {}
    walked = [Path(top, name) for top, _, names in os.walk(out, followlinks=True) for name in names]
    for file in sorted(walked):
        place = str(file.relative_to(out))
        if "checkpoints/" in place or "/." in place or place.startswith("shared/"):  # arms are linked to what is shared
            continue
        if file.suffix in (".safetensors", ".bin"):
            found[place] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.name in (
            "summary.json",
            "comparison.json",
            "evaluation.json",
            "training.json",
            "result.json",
            "selection.json",
            "inherited.json",
            "samples.json",
            "analysis.json",
        ):
            found[place] = plain(json.loads(file.read_text(encoding="utf-8")))
    return found


def plain(value: Any) -> Any:
    """A value without what is measured anew each time."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items() if not any(part in key for part in MEASURED)}
    if isinstance(value, str):
        return re.sub("(data|reference)-[0-9a-f]{12}", r"\1", value)  # named by what they depend on, as times of files
    return [plain(one) for one in value] if isinstance(value, list) else value


RENAMED = {"silent": "function_preserving", "format": "version"}  # keys of result files that have another name since


def differences(before: Any, after: Any, place: str = "") -> list[str]:
    """Places where two results differ. What is new in `after` is no difference."""
    if isinstance(before, dict) and isinstance(after, dict):
        before = {RENAMED[key] if RENAMED.get(key) in after else key: value for key, value in before.items()}
        found = [f"{place}/{key}: gone" for key in before if key not in after]
        return found + [
            line for key in before if key in after for line in differences(before[key], after[key], f"{place}/{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for number, pair in pairs for line in differences(*pair, f"{place}/{number}")]
    return [] if before == after else [f"{place}: {before!r} became {after!r}"[:300]]


def losses(found: dict[str, Any]) -> dict[str, float]:
    """The validation loss of every judged model, by its place."""
    return {
        place: one["val_loss"]
        for place, one in found.items()
        if place.endswith("evaluation.json") and "val_loss" in one
    }


if __name__ == "__main__":
    if len(sys.argv) == 2:
        compute(Path(sys.argv[1]))
    else:
        one, other = (json.loads((Path(place) / "results.json").read_text()) for place in sys.argv[1:])
        lines = differences(one, other)
        print("\n".join(lines) or f"no difference in {len(one)} files")
        sys.exit(bool(lines))
