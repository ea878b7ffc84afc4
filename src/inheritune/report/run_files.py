"""What a run's folder holds, whole or half finished: read for the pages."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from inheritune.errors import InputError
from inheritune.report.analysis_page import read_analysis
from inheritune.report.curves import Curve, Curves, Points
from inheritune.report.notation import many, short
from inheritune.report.task_table import read_tasks
from inheritune.runlog import read_mapping, read_metrics

_READ = {"evaluate": ("every", "sequences", "tolerance"), "train": ("sequence_length",), "reference": ()}
"""Keys of the resolved recipe that pages need."""
_NEEDED = {
    "evaluation.json": ("val_loss", "validation_sequences", "sequence_losses"),
    "summary.json": (
        "finished",
        "reference",
        "rounds",
        "controls",
        "result.model",
        "tolerance",
        "validation_sequences",
    ),
    "samples.json": ("new_tokens", "prompts", "models"),
}
"""Keys of other files that they need."""
_ROUND = re.compile(r"(\d+)-(\d+)layers")
_CONTROL = re.compile(r"(.+?)(?:-(\d+)layers)?")


@dataclass(frozen=True)
class TrainingFolder:
    """One training of a run, finished or not: `name` is for people, `role` as in `Curve`."""

    name: str
    folder: Path
    role: str

    @property
    def judged(self) -> dict[str, Any] | None:
        """evaluation.json, which stands there when all is done."""
        return _json(self.folder / "evaluation.json")

    def points(self, before: dict[str, Any]) -> Points:
        """Validation losses on the way, behind what earlier rounds have spent (`before`: its figures)."""
        cost = self.judged or _json(self.folder / "training.json") or {}
        each = cost["flops"] / cost["tokens"] if "flops" in cost and cost["tokens"] else None
        points: Points = []
        for record in read_metrics(self.folder / "metrics.jsonl"):
            if "val_loss" not in record or "tokens" not in record:
                continue
            point = {
                "steps": record["step"] + before.get("steps_before", 0),
                "tokens": record["tokens"] + before.get("tokens_before", 0),
                "val_loss": record["val_loss"],
            }
            if each is not None:
                point["flops"] = record["tokens"] * each + before.get("flops_before", 0)
            points.append(point)
        return points

    def state(self) -> str | None:
        """Where a training stands that was begun and is not finished, in a sentence."""
        if self.judged is not None or not self.folder.is_dir():
            return None
        if (self.folder / "model").is_dir():
            return f"{self.name}: trained, not judged yet."
        steps = [record for record in read_metrics(self.folder / "metrics.jsonl") if "loss" in record]
        if not steps:
            return f"{self.name}: begun, no step is done yet."
        last = steps[-1]
        tokens = f" ({short(last['tokens'])} tokens)" if "tokens" in last else ""
        return f"{self.name}: not finished; at step {last['step']:,}{tokens} the training loss is {last['loss']:.4f}."


@dataclass(frozen=True)
class Run:
    """What is there of a run. `summary` has the keys of summary.json; `reference` and `result` are None before they
    are known.
    """

    folder: Path
    recipe: dict[str, Any]
    recipe_text: str
    summary: dict[str, Any]
    trainings: list[TrainingFolder]
    manifest: dict[str, Any]
    samples: dict[str, Any] | None
    tasks: dict[str, Any] | None
    analysis: dict[str, Any] | None

    @property
    def under_way(self) -> list[str]:
        """Sentences on what was begun and is not finished."""
        found = [said for training in self.trainings if (said := training.state())]
        if self.summary["reference"] and not self.summary["finished"] and not self.trainings:
            found.append("No training has begun.")
        return found

    @property
    def curve_sequences(self) -> int:
        """On how many validation sequences the curves are taken."""
        asked, there = self.recipe["evaluate"]["sequences"], self.summary["validation_sequences"]
        return int(asked if there is None else min(asked, there))

    def curves(self, label: str = "") -> Curves:
        """Curves of all trainings, and the reference's final loss on the sequences that they are taken on."""
        before = {found["model"]: found for found in [*self.summary["rounds"], *self.summary["controls"]]}
        prefix = f"{label}: " if label else ""
        curves = []
        for one in self.trainings:
            model = (one.folder / "model").relative_to(self.folder).as_posix()
            curves.append(Curve(prefix + one.name, one.points(before.get(model, {})), one.role))
        judged = _json(self.folder / "reference" / "evaluation.json")
        levels = {}
        if judged is not None:
            losses = judged["sequence_losses"][: self.curve_sequences]
            levels[f"{prefix}reference, final"] = math.fsum(losses) / len(losses)
        return Curves([curve for curve in curves if curve.points], levels)


def read_run(folder: Path, summary: dict[str, Any] | None = None) -> Run:
    """Read a run's folder; `summary` is given where summary.json is yet to be written.

    Raises InputError where there is no recipe.yaml that can be read, DamagedFile for another file that is damaged.
    """
    place = folder / "recipe.yaml"
    try:
        text = place.read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
        for part, keys in _READ.items():
            for key in keys:
                recipe[part][key]
    except FileNotFoundError:
        raise InputError(str(folder), "holds no recipe.yaml", "name the folder of a run") from None
    except (yaml.YAMLError, ValueError, RecursionError, KeyError, TypeError):
        what = "is damaged, so that nothing says what is run here"
        raise InputError(str(place), what, "run the recipe in another folder") from None
    trainings = list(_trainings(folder))
    analysis = folder / "analysis" / "analysis.json"
    standing = _standing(folder, recipe, trainings, summary or _json(folder / "summary.json"))
    return Run(
        folder, recipe, text, standing, trainings, _json(folder / "manifest.json") or {},
        _json(folder / "samples.json"), read_tasks(folder / "tasks.json"),
        read_analysis(analysis) if analysis.exists() else None,
    )  # fmt: skip


def _trainings(folder: Path) -> Iterator[TrainingFolder]:
    """Those that have left a folder, in their order: the reference's (where it is trained), rounds, controls."""
    if (folder / "reference" / "metrics.jsonl").exists():
        yield TrainingFolder("reference", folder / "reference", "reference")
    rounds = [(place, match) for place in _folders(folder / "rounds") if (match := _ROUND.fullmatch(place.name))]
    for place, match in sorted(rounds, key=lambda found: int(found[1][1])):
        yield TrainingFolder(f"round {match[1]}: {many(int(match[2]), 'block')}", place, "round")
    for place in sorted(_folders(folder / "controls")):
        match = _CONTROL.fullmatch(place.name)
        assert match is not None  # it fits any name
        blocks = f", {many(int(match[2]), 'block')}" if match[2] else ""
        yield TrainingFolder(f"control: {match[1]}{blocks}", place, "control")


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return [found for found in place.iterdir() if found.is_dir() and not found.name.startswith(".")]


def _standing(
    folder: Path, recipe: dict[str, Any], trainings: list[TrainingFolder], summary: dict[str, Any] | None
) -> dict[str, Any]:
    """summary.json, and beside it what was judged since it was written."""
    if summary is not None and summary["finished"]:
        return summary
    reference = _json(folder / "reference" / "evaluation.json")
    if reference is not None:
        name = recipe["reference"].get("path") if isinstance(recipe["reference"], dict) else recipe["reference"]
        reference = {**reference, "name": name or "reference trained by this run"}
    found: dict[str, Any] = {"rounds": [], "controls": [], "result": None} | (summary or {})
    known = {one["model"] for one in [*found["rounds"], *found["controls"]]}
    later: dict[str, list[dict[str, Any]]] = {"round": [], "control": []}
    for one in trainings:
        model = (one.folder / "model").relative_to(folder).as_posix()
        if one.role in later and model not in known and (judged := one.judged) is not None:
            name = one.name.removeprefix("control: ").partition(",")[0]
            later[one.role].append({**judged, "model": model, "name": name})
    return {
        "finished": False,
        "reference": reference,
        "tolerance": recipe["evaluate"]["tolerance"],
        "validation_sequences": None if reference is None else reference["validation_sequences"],
        **found,
        "rounds": [*found["rounds"], *later["round"]],
        "controls": [*found["controls"], *later["control"]],
    }


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    return read_mapping(path, *_NEEDED.get(path.name, ()))
