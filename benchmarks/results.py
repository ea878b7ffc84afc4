"""Print what comparisons found, as Markdown: each one's table, and the differences that the paper's orderings are of.

    python benchmarks/results.py runs/table-5-2-cores runs/lazy-layers-2-cores
    python benchmarks/results.py runs/*-2-cores --into docs/results.md

A difference is that of two arms of one comparison: its mean, the standard error over documents of the validation text
(both arms on the same ones, their losses averaged over the seeds), and half the 95 % interval over the seeds (of the
difference within each seed; Student's t).
Beside it what the paper has, where it has both. A folder's name begins with its suite's.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inheritune.evaluation import gap, mean
from inheritune.report import notes_on, speed_up_cell
from inheritune.report.markup import markdown_table, markdown_text
from inheritune.report.notation import short, with_error
from inheritune.results import Comparison, JudgedArm
from inheritune.runlog import duration, read_json


@dataclass(frozen=True)
class Ordering:
    """Two arms of a suite, and what the paper has for the loss of `left` less that of `right`."""

    suite: str
    left: str
    right: str
    paper: str = ""


_MEDIUM, _SMALL = "table 5, medium", "table 4, small"
ORDERINGS = (
    Ordering("table-5", "inherit", "random", f"-0.05 ({_MEDIUM})"),
    Ordering("table-5", "inherit", "random twice", f"-0.02 ({_MEDIUM})"),
    Ordering("table-5", "inherit 3", "random", f"+0.01 (12 of 24, {_MEDIUM})"),
    Ordering("table-5", "inherit", "hybrid stacking", f"-0.02 ({_MEDIUM})"),
    Ordering("table-5", "hybrid stacking", "stacking", f"-0.01 ({_MEDIUM})"),
    Ordering("table-5", "stacking", "random", f"-0.02 ({_MEDIUM})"),
    Ordering("table-5", "stacking equal", "random"),
    Ordering("table-5", "half width", "random", f"+0.18 ({_MEDIUM})"),
    Ordering("table-5", "growth, going on", "growth, from the reference"),
    Ordering("lazy-layers", "blocks 1-4", "random", f"-0.03 ({_SMALL})"),
    Ordering("lazy-layers", "blocks 3-6", "random", f"-0.06 ({_SMALL}: 5-8)"),
    Ordering("lazy-layers", "blocks 5-8", "random", f"-0.02 ({_SMALL}: 9-12)"),
    Ordering("lazy-layers", "blocks 3-6", "blocks 1-4", f"-0.03 ({_SMALL}: 5-8)"),
    Ordering("lazy-layers", "blocks 5-8", "blocks 1-4", f"+0.01 ({_SMALL}: 9-12)"),
    Ordering("lazy-layers", "blocks 1-2", "random 2"),
    Ordering("lazy-layers", "blocks 7-8", "random 2", "about 0 (figure 3)"),
    Ordering("sub-modules", "attention", "random", "-0.02 (table 3)"),
    Ordering("sub-modules", "MLP", "random", "-0.01 (table 3)"),
    Ordering("sub-modules", "attention", "MLP", "-0.01 (table 3)"),
    Ordering("sub-modules", "attention and MLP", "all", "-0.01 (table 3)"),
    Ordering("sub-modules", "attention alone", "random"),
    Ordering("sub-modules", "MLP alone", "random"),
    Ordering("sub-modules", "blocks without the rest", "all"),
    Ordering("sub-modules", "blocks and embeddings", "all"),
    Ordering("sub-modules", "blocks and final norm", "all"),
    Ordering("which-blocks", "last 1", "first"),
    Ordering("which-blocks", "last 2", "first"),
    Ordering("which-blocks", "middle", "first"),
    Ordering("which-blocks", "last", "first"),
    Ordering("which-blocks", "every k-th", "first"),
    Ordering("which-blocks", "auto", "first"),
    Ordering("distillation", "random distilled", "random"),
    Ordering("distillation", "DistilBERT-style", "random distilled", "+0.01 (figure 17)"),
    Ordering("distillation", "inherit", "random distilled", "below 0 (figure 17)"),
    Ordering("distillation", "inherit", "DistilBERT-style", "below 0 (figure 17)"),
    Ordering("distillation", "inherit distilled", "inherit"),
    Ordering("extended", "random twice", "random", f"-0.03 ({_MEDIUM})"),
    Ordering("extended", "inherit", "random twice", f"-0.02 ({_MEDIUM})"),
    Ordering("extended", "inherit twice", "inherit"),
    Ordering("fineweb-edu", "inherit", "random"),
    Ordering("low-data", "4 blocks", "random"),
    Ordering("low-data", "4 blocks", "2 blocks"),
    Ordering("low-data", "6 blocks", "4 blocks"),
    Ordering("low-data", "4 blocks 4 epochs", "4 blocks"),
    Ordering("low-data", "4 blocks", "4 blocks 1 epochs"),
    Ordering("low-data", "half of the second", "second reference"),
    Ordering("data", "all", "random"),
    Ordering("data", "10 percent", "all"),
    Ordering("data", "1 percent", "all"),
    Ordering("data", "0.1 percent", "all"),
    Ordering("data", "0.1 percent", "random"),
    Ordering("data", "1 percent", "random 1 percent"),
    Ordering("data", "1 percent filtered", "1 percent"),
    Ordering("hyper-parameters", "random 1.5e-3", "random"),
    Ordering("hyper-parameters", "2 blocks 7e-4", "2 blocks 3e-3"),
    Ordering("hyper-parameters", "2 blocks 1.5e-3", "2 blocks 3e-3"),
    Ordering("hyper-parameters", "4 blocks 7e-4", "4 blocks 3e-3"),
    Ordering("hyper-parameters", "4 blocks 1.5e-3", "4 blocks 3e-3"),
    Ordering("hyper-parameters", "6 blocks 7e-4", "6 blocks 3e-3"),
    Ordering("hyper-parameters", "6 blocks 1.5e-3", "6 blocks 3e-3"),
    Ordering("miniature-table-5", "inherit", "random", f"-0.05 ({_MEDIUM})"),
    Ordering("miniature-table-5", "inherit", "random twice", f"-0.02 ({_MEDIUM})"),
    Ordering("miniature-table-5", "inherit", "hybrid stacking", f"-0.02 ({_MEDIUM})"),
    Ordering("miniature-table-5", "hybrid stacking", "random", f"-0.03 ({_MEDIUM})"),
    Ordering("miniature-table-5", "stacking", "random", f"-0.02 ({_MEDIUM})"),
    Ordering("miniature-table-5", "stacking equal", "random"),
    Ordering("miniature-table-5", "half width", "random", f"+0.18 ({_MEDIUM})"),
    Ordering("miniature-table-5", "inherit 8", "inherit"),
    Ordering("miniature-table-4", "blocks 1-4", "random 4", f"-0.03 ({_SMALL})"),
    Ordering("miniature-table-4", "blocks 5-8", "random 4", f"-0.06 ({_SMALL})"),
    Ordering("miniature-table-4", "blocks 9-12", "random 4", f"-0.02 ({_SMALL})"),
    Ordering("miniature-table-4", "blocks 5-8", "blocks 1-4", f"-0.03 ({_SMALL})"),
    Ordering("miniature-sub-modules", "attention", "random", "-0.02 (table 3)"),
    Ordering("miniature-sub-modules", "MLP", "random", "-0.01 (table 3)"),
    Ordering("miniature-sub-modules", "attention", "MLP", "-0.01 (table 3)"),
    Ordering("miniature-sub-modules", "attention and MLP", "all", "-0.01 (table 3)"),
    Ordering("recovery-smollm2", "tuned blocks", "plain"),
    Ordering("recovery-smollm2", "KL", "tuned blocks"),
    Ordering("recovery-smollm2", "KL and states", "KL"),
    Ordering("recovery-smollm2", "KL and states x 40", "KL and states"),
    Ordering("recovery-smollm2", "staged", "KL and states"),
    Ordering("recovery-smollm2", "refitted", "KL and states"),
    Ordering("recovery-smollm2", "plain, refitted", "plain"),
    Ordering("recovery-smollm2", "plain, refitted, 4 epochs", "plain, refitted"),
    Ordering("recovery-smollm2", "refitted, 4 epochs", "refitted"),
    Ordering("recovery-smollm2", "refitted, 8 epochs", "refitted, 4 epochs"),
    Ordering("shapes", "depth", "random depth"),
    Ordering("shapes", "depth and MLP", "depth"),
    Ordering("shapes", "auto", "depth"),
    Ordering("shapes", "auto", "depth and MLP"),
    Ordering("shapes", "auto refitted", "depth refitted"),
    Ordering("shapes", "auto refitted", "auto"),
    Ordering("shapes", "auto", "random"),
    Ordering("lazy-layers-smollm2", "blocks 17-20", "random blocks"),
    Ordering("lazy-layers-smollm2", "blocks 24-27, lazy", "random blocks", "about 0 (figure 3)"),
    Ordering("lazy-layers-smollm2", "blocks 24-27, lazy", "blocks 17-20", "above 0 (table 4)"),
    Ordering("lazy-layers-smollm2", "attention 24-27, lazy", "random blocks", "about 0 (figure 3)"),
    Ordering("lazy-layers-smollm2", "attention 17-20", "random blocks"),
    Ordering("lazy-layers-smollm2", "1-2 and 24-27, lazy", "1-2 and 17-20", "above 0 (table 4)"),
    Ordering("lazy-layers-smollm2", "1-2 and 17-20", "6 random blocks"),
    Ordering("lazy-layers-smollm2", "1-2 and 24-27, lazy", "6 random blocks", "about 0 (figure 3)"),
)
COLUMNS = ("arm", "blocks", "params", "tokens", "FLOPs", "s", "val. loss", "± seeds", "gap", "over random", "speed-up")


def main(words: Sequence[str] | None = None) -> None:
    """Print the comparisons in the folders of the command line, or put them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="Folders of `inheritune compare`.")
    parser.add_argument("--into", type=Path, help="A Markdown file: what stands between its marks is replaced.")
    given = parser.parse_args(words)
    folders: list[Path] = given.folders
    parts = {folder.name: _part(folder, read_json(folder / "comparison.json")) for folder in folders}
    parts["all"] = _cost(folders)
    if given.into is None:
        print("\n\n".join(f"### {name}\n\n{text}" for name, text in parts.items()))
        return
    document = given.into.read_text(encoding="utf-8")
    for name, text in parts.items():
        before, mark, rest = document.partition(f"<!-- {name} -->\n")
        _, end, behind = rest.partition(f"<!-- /{name} -->")
        if not (mark and end):
            parser.error(f"{given.into}: no marks <!-- {name} --> and <!-- /{name} -->; put them where it shall stand")
        document = f"{before}{mark}{text}\n{end}{behind}"
    given.into.write_text(document, encoding="utf-8")


def _part(folder: Path, found: dict[str, Any]) -> str:
    """What is shown of a comparison: the table, what its marks mean, the differences."""
    notes = [
        markdown_text(note)
        for note in notes_on(Comparison.model_validate(found))
        if note.startswith("*") or ", failed: " in note
    ]
    parts = [_table(found), _differences(folder, found), _rounds(found)]
    blocks = ["\n".join(parts[0]), "  \n".join(notes), *("\n".join(part) for part in parts[1:])]
    return "\n\n".join(block for block in blocks if block)


def _cost(folders: Sequence[Path]) -> str:
    """What all trainings took, those that several comparisons share counted once."""
    trained: dict[Path, tuple[float, float]] = {}
    for folder in folders:
        for arm in read_json(folder / "comparison.json")["arms"]:
            for run in arm.get("runs", []):
                trained[(folder / run["folder"]).resolve()] = (run["seconds"], run["tokens"])
    seconds, tokens = (sum(parts) for parts in zip(*trained.values(), strict=True))
    return f"{len(trained)} arms and seeds, each counted once: {tokens:,} tokens, {duration(seconds)} of steps."


def _table(found: dict[str, Any]) -> list[str]:
    """A row for the reference and for each arm; the paper's figure where the suite has one."""
    published = found["published"] or {"values": {}}
    reference = found["reference"]
    first = {
        "arm": "reference", "blocks": str(reference["layers"]), "params": short(reference["parameters"]),
        "val. loss": with_error(reference["val_loss"], reference["val_loss_se"]),
    }  # fmt: skip
    if "tokens" in reference:
        first |= {"tokens": short(reference["tokens"]), "FLOPs": f"{reference['flops']:.2g}"}
        first |= {"s": f"{reference['seconds']:,.0f}"}
    rows = [first, *(_row(arm) for arm in found["arms"])]
    for row in rows:
        row["published"] = f"{published['values'][row['arm']]:g}" if row["arm"] in published["values"] else ""
    header = [name for name in (*COLUMNS, "FLOPs to match", "published") if any(row.get(name) for row in rows)]
    return markdown_table(header, [[row.get(name, "") for name in header] for row in rows])


def _row(arm: dict[str, Any]) -> dict[str, str]:
    if "val_loss" not in arm:
        return {"arm": arm["name"], "val. loss": arm["verdict"]}
    row = {
        "arm": arm["name"], "blocks": str(arm["layers"]), "params": short(arm["parameters"]),
        "tokens": short(round(arm["tokens"])) + ("" if arm["equal"] else r" \*"), "FLOPs": f"{arm['flops']:.2g}",
        "s": f"{arm['seconds']:,.0f}", "val. loss": with_error(arm["val_loss"], arm["val_loss_se"]),
        "gap": with_error(arm["gap"], arm["gap_se"], sign=True),
    }  # fmt: skip
    if arm["val_loss_margin_seeds"] is not None:
        row["± seeds"] = f"{arm['val_loss_margin_seeds']:.4f}"
    if arm.get("random"):
        row["over random"] = with_error(arm["over_random"], arm["over_random_se"], sign=True)
        row["speed-up"] = speed_up_cell(JudgedArm.model_validate(arm))
    if arm["start"] == "growth":
        row["FLOPs to match"] = "not reached" if arm["flops_to_match"] is None else f"{arm['flops_to_match']:.3g}"
    return row


def _differences(folder: Path, found: dict[str, Any]) -> list[str]:
    """A row for each ordering whose arms are both there."""
    arms = {arm["name"]: arm for arm in found["arms"] if "val_loss" in arm}
    rows = []
    for wanted in ORDERINGS:
        if (
            folder.name not in (wanted.suite, f"{wanted.suite}-2-cores")
            or not {wanted.left, wanted.right} <= arms.keys()
        ):
            continue
        left, right = (_losses(folder, arms[name]) for name in (wanted.left, wanted.right))
        seeds = [seed for seed in left if seed in right]
        sizes = _clusters(folder, arms[wanted.left])
        over = gap(_averaged(left, seeds), _averaged(right, seeds), sizes)
        between = mean([gap(left[seed], right[seed], sizes).value for seed in seeds])
        error = "" if between.margin is None else f"{between.margin:.4f}"
        rows.append([f"{wanted.left} - {wanted.right}", with_error(over.value, over.error, True), error, wanted.paper])
    return markdown_table(["difference", "val. loss", "± seeds", "paper"], rows) if rows else []


def _rounds(found: dict[str, Any]) -> list[str]:
    """A row for each round of the arms that grow: its depth, what it added up to, its loss."""
    rows = []
    for arm in found["arms"]:
        for run in arm["runs"] if arm["start"] == "growth" and "runs" in arm else []:
            spent = 0.0
            for stage in run["stages"]:
                spent += stage["flops"]
                rows.append(
                    [arm["name"], str(run["seed"]), str(stage["layers"]), f"{spent:.3g}", f"{stage['val_loss']:.4f}"]
                )
    return markdown_table(["rounds of", "seed", "blocks", "FLOPs until then", "val. loss"], rows) if rows else []


def _losses(folder: Path, arm: dict[str, Any]) -> dict[int, list[float]]:
    """By seed, the loss of each cluster of the validation text."""
    runs = {run["seed"]: folder / run["folder"] / "result.json" for run in arm["runs"]}
    return {seed: read_json(file)["cluster_losses"] for seed, file in runs.items()}


def _clusters(folder: Path, arm: dict[str, Any]) -> list[int]:
    """The tokens of each cluster."""
    sizes: list[int] = read_json(folder / arm["runs"][0]["folder"] / "result.json")["cluster_tokens"]
    return sizes


def _averaged(losses: dict[int, list[float]], seeds: Sequence[int]) -> list[float]:
    return [mean(each).value for each in zip(*(losses[seed] for seed in seeds), strict=True)]


if __name__ == "__main__":
    main()
