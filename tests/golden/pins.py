"""What the suites and recipes that follow the paper ask for, defaults included: tests/golden/pins.json.

    python tests/golden/pins.py        # writes it again

A default that becomes better must not change them: then set the old value in recipes/suites/bases or in the recipe.
Write the file again only where a suite itself was changed on purpose.
"""

import json
from pathlib import Path
from typing import Any

from inheritune.experiment import load_suite
from inheritune.recipe import load_recipe

ROOT = Path(__file__).parents[2] / "recipes"
FILE = Path(__file__).with_name("pins.json")
_FREE = {"micro_batch", "checkpoint", "compile", "activation_checkpointing"}  # keys of train that change no result


def _decisive(tree: dict[str, Any]) -> dict[str, Any]:
    """The parts that decide what is trained on what, and when it has matched."""
    parts = {key: tree[key] for key in ("reference", "layers", "arms", "inherit", "grow", "controls") if key in tree}
    parts["train"] = {key: value for key, value in tree["train"].items() if key not in _FREE}
    if "recovery" in tree:
        parts["recovery"] = tree["recovery"]
    parts["tolerance"] = tree["evaluate"]["tolerance"]
    data = tree["data"]
    parts["data"] = {key: data[key] for key in ("size", "validation", "prefix", "filters", "tokens", "prepared")}
    parts["sources"] = [
        {key: value for key, value in source.items() if key not in ("include", "exclude")} for source in data["sources"]
    ]
    return parts


def pins() -> dict[str, Any]:
    """The decisive parts by the file's name, as they are now."""
    files = [file for file in sorted((ROOT / "suites").glob("*.yaml")) if not file.name.startswith("recovery-")]
    suites = {file.name: load_suite(file) for file in files}  # those of recovery do not follow the paper
    trees = {name: suite.model_dump(mode="json") for name, suite in suites.items()}
    recipe = "openllama-1.5b.yaml"
    trees[recipe] = load_recipe(ROOT / recipe).model_dump(mode="json")
    return {name: _decisive(tree) for name, tree in trees.items()}


def main() -> None:
    """Write the file."""
    FILE.write_text(json.dumps(pins(), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
