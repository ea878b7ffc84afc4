"""What a shape that is found gains over whole blocks, at one size or speed, after the default recovery: one table.

    python benchmarks/shapes.py SmolLM2-135M-Instruct.Q4_1.gguf gcide.txt --size "81.4M parameters" --tokens 41000
    python benchmarks/shapes.py MODEL TEXT --speed 2x --tokens 205000 --seeds 1 2
    python benchmarks/shapes.py MODEL TEXT --size 0.5 --tokens 41000 --table   # what is there so far, as Markdown

Stopped at any time, the same command resumes. Both arms have the settings that a recipe's `recovery` decides for this
model and text, and the same tuned reference and teacher. *depth* has as many whole blocks as the size or the speed
allows, *auto* the best of the shapes that are tried for it (the table of these is printed too). Differences are *auto*
less *depth*, on the same validation text; ± is a standard error over it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from recovery import recipe_of_model, same_losses
from run_suites import ROOT

from inheritune.evaluation import gap
from inheritune.experiment import compare
from inheritune.experiment.plan import Models
from inheritune.experiment.recovery import Facts, decide_recovery, with_decision
from inheritune.recipe import Recipe, check
from inheritune.report import shape_notes, shape_table, short, with_error
from inheritune.report.markup import markdown_table
from inheritune.results import ShapeChoice
from inheritune.runlog import read_json

ARMS = ("depth", "auto")
HEADER = [
    "arm",
    "shape",
    "parameters",
    "generation",
    "tokens seen",
    "val. loss",
    "gap to the tuned reference",
    "less depth",
]


def suite_of(given: argparse.Namespace) -> dict[str, Any]:
    """The comparison of both arms."""
    budget = {"size": given.size, "speed": given.speed}
    budget = {key: value for key, value in budget.items() if value is not None}
    text: dict[str, Any] = {"name": given.text.stem, "path": str(given.text), "document": "4K characters"}
    tree = recipe_of_model(given.model, [text], given.tokens, {**budget, "shape": "depth"})
    asked = check(Recipe, tree, "benchmark")
    models = Models(asked, drafts=False)
    settled = with_decision(asked, decide_recovery(asked, models, Facts(given.tokens, float("inf"))))
    train, tune = settled.train.model_dump(mode="json"), settled.reference.tune
    refit = {} if settled.inherit.refit is None else {"refit": str(settled.inherit.refit)}
    start = {"kind": "inherit", "choose": given.choose, **budget, **refit}
    reference: dict[str, Any] = {"path": tree["reference"]}
    if tune is not None:
        reference["tune"] = tune.model_dump(mode="json")
    return {
        "reference": reference, "data": tree["data"], "train": train, "evaluate": tree["evaluate"],
        "seeds": given.seeds, "arms": [{"name": name, "start": {**start, "shape": name}} for name in ARMS],
    }  # fmt: skip


def rows_of(folder: Path) -> list[list[str]]:
    """A row for the tuned reference and for each arm that is trained."""
    found = read_json(folder / "comparison.json")
    reference, arms = found["reference"], {arm["name"]: arm for arm in found["arms"] if "val_loss" in arm}
    rows = [["reference", f"{reference['layers']} blocks", short(reference["parameters"]), "", "",
             with_error(reference["val_loss"], reference["val_loss_se"]), "", ""]]  # fmt: skip
    for name, arm in arms.items():
        shape = shape_of(folder, name)
        fast = None if shape is None else shape.best.generation
        over = ""
        if name != "depth" and "depth" in arms:
            (own, tokens), (other, _) = (same_losses(folder, arms[one]) for one in (name, "depth"))
            between = gap(own, other, tokens)
            over = with_error(between.value, between.error, sign=True)
        rows.append([
            name, f"{arm['layers']} blocks" if shape is None else shape.best.words, short(arm["parameters"]),
            "" if fast is None else f"{fast.times:.2f}x", short(round(arm["tokens"])),
            with_error(arm["val_loss"], arm["val_loss_se"]), with_error(arm["gap"], arm["gap_se"], sign=True), over,
        ])  # fmt: skip
    return rows


def shape_of(folder: Path, arm: str) -> ShapeChoice | None:
    """What was tried for an arm with its first seed; None for whole blocks of a size, which need no trial."""
    files = sorted((folder / "arms" / arm).glob("seed-*/shape.json"))
    return ShapeChoice.read(files[0]) if files else None


def main(words: list[str] | None = None) -> None:
    """Train both arms, or print the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a .gguf file, a folder or a hub id")
    parser.add_argument("text", type=Path)
    parser.add_argument("--size", help="as inherit.size of a recipe")
    parser.add_argument("--speed", help="as inherit.speed of a recipe")
    parser.add_argument("--tokens", type=int, default=41_000, help="of training text; default: 41000")
    parser.add_argument("--choose", default="auto", help="as inherit.choose of a recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "shapes", help="default: runs/shapes")
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args(words)
    if given.size is None and given.speed is None:
        parser.error("give --size or --speed")
    goal = "-".join(str(value).replace(" ", "-") for value in (given.size, given.speed) if value is not None)
    folder = given.out / f"{Path(given.model).stem}-{given.text.stem}-{goal}-{short(given.tokens).lower()}"
    if not given.table:
        given.out.mkdir(parents=True, exist_ok=True)
        compare(suite_of(given), folder)
    if not (folder / "comparison.json").exists():
        sys.exit(f"{folder}: nothing is there yet; run without --table")
    print("\n".join(markdown_table(HEADER, rows_of(folder))))
    tried = shape_of(folder, "auto")
    if tried is not None:
        print(f"\n{shape_table(tried).markdown()}\n\n" + "\n".join(shape_notes(tried)))


if __name__ == "__main__":
    main()
