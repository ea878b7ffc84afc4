"""A run's folder, whole or half finished, as far as pages need it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import AliasPath, Field, ValidationError

from inheritune.errors import InputError
from inheritune.redaction import without_folders
from inheritune.report.curves import Curve, Curves, Points, final_level
from inheritune.report.notation import many, short
from inheritune.report.run_summary import verdict, verdict_colour
from inheritune.results import (
    Analysis,
    Control,
    EvaluationResult,
    Manifest,
    ReferenceSummary,
    ResultPart,
    Round,
    RunState,
    RunSummary,
    Samples,
    ShapeChoice,
    TrainedSummary,
    TrainingCost,
    TrainingResult,
    read_judged,
)
from inheritune.runlog import read_metrics

_ROUND = re.compile(r"(\d+)-(\d+)layers")
_CONTROL = re.compile(r"(.+?)(?:-(\d+)layers)?")


class RunRecipe(ResultPart):
    """What pages need of recipe.yaml. Recipes of earlier versions have these keys too."""

    reference: dict[str, object] | str
    sequence_length: int = Field(validation_alias=AliasPath("train", "sequence_length"))
    every: str | int = Field(validation_alias=AliasPath("evaluate", "every"))
    sequences: int = Field(validation_alias=AliasPath("evaluate", "sequences"))
    tolerance: float = Field(validation_alias=AliasPath("evaluate", "tolerance"))
    controls: list[str]
    assistant_only_loss: bool = Field(False, validation_alias=AliasPath("data", "assistant_only_loss"))

    @property
    def reference_name(self) -> str:
        """The reference's name."""
        path = self.reference if isinstance(self.reference, str) else self.reference.get("path")
        return str(path or "reference trained by this run")


@dataclass(frozen=True)
class TrainingFolder:
    """One training of a run, finished or not: `name` is for people, `role` as in `Curve`."""

    name: str
    folder: Path
    role: str

    @property
    def model(self) -> str:
        """The folder of its model, from that of the run."""
        return f"{self.folder.parent.name}/{self.folder.name}/model"

    @property
    def judged(self) -> TrainingResult | None:
        """evaluation.json, which is written when the training is done."""
        result = read_judged(self.folder / "evaluation.json")
        return result if isinstance(result, TrainingResult) else None

    def points(self, model: TrainedSummary | None) -> Points:
        """Validation losses during training; the cost of the rounds before `model` counts."""
        cost = self.judged or TrainingCost.read_if_there(self.folder / "training.json")
        before = {} if model is None else model.given()
        points: Points = []
        for record in read_metrics(self.folder / "metrics.jsonl"):
            if "val_loss" not in record or "tokens" not in record:
                continue
            point = {
                key: record[kind] + before.get(f"{key}_before", 0)
                for key, kind in (("steps", "step"), ("tokens", "tokens"))
            }
            if cost is not None and cost.tokens:
                point["flops"] = record["tokens"] * (cost.flops / cost.tokens) + before.get("flops_before", 0)
            points.append(point | {"val_loss": record["val_loss"]})
        return points

    def state(self) -> str | None:
        """The progress of an unfinished training in a sentence; None for another one."""
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
class RunFolder:
    """The files of a run. `state` also has what was judged after summary.json was written."""

    folder: Path
    recipe: RunRecipe
    recipe_text: str
    state: RunState
    trainings: list[TrainingFolder]
    manifest: Manifest
    samples: Samples | None
    tasks: EvaluationResult | None
    analysis: Analysis | None
    shape: ShapeChoice | None

    @classmethod
    def read(cls, folder: Path, summary: RunSummary | None = None) -> "RunFolder":
        """Read a folder; `summary` is given where summary.json is yet to be written.

        Raises InputError where no recipe.yaml can be read, DamagedFile for another file that is damaged.
        """
        text, recipe = _recipe(folder)
        trainings = list(_trainings(folder, recipe.controls))
        summary = summary or RunSummary.read_if_there(folder / "summary.json")
        return cls(
            folder,
            recipe,
            text,
            _state(folder, recipe, trainings, summary),
            trainings,
            Manifest.read_if_there(folder / "manifest.json") or Manifest(),
            Samples.read_if_there(folder / "samples.json"),
            EvaluationResult.read_if_there(folder / "tasks.json"),
            Analysis.read_if_there(folder / "analysis" / "analysis.json"),
            ShapeChoice.read_if_there(folder / "shape.json"),
        )

    @property
    def title(self) -> str:
        """The page's title."""
        name = self.state.reference.name if self.state.reference else self.folder.resolve().name
        return f"Inheritune: {without_folders(name)}"

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """The verdict and its colour."""
        return [(verdict_colour(self.state), verdict(self.state))]

    @property
    def under_way(self) -> list[str]:
        """Sentences on what was begun and is not finished."""
        sentences = [sentence for training in self.trainings if (sentence := training.state())]
        if self.state.reference and not self.state.finished and not self.trainings:
            sentences.append("No training has begun.")
        return sentences

    @property
    def best(self) -> Round | None:
        """The round that is the result so far."""
        result = self.state.result
        return next((one for one in self.state.rounds if result and one.model == result.model), None)

    @property
    def validation_text(self) -> str:
        """The checksums of the validation shards, which differ between texts; empty where they are not known."""
        sums = sorted(
            checksum[:8] for name, checksum in self.manifest.lineage.data.items() if name.startswith("validation")
        )
        return f"validation text {', '.join(sums)}" if sums else ""

    @property
    def counted(self) -> str | None:
        """What of conversations the losses are over, as a sentence; None for text."""
        if self.recipe.assistant_only_loss:
            return "The documents are conversations, and the losses are over the assistant's turns."
        if any(name.endswith(".marks") for name in self.manifest.lineage.data):
            return "The documents are conversations, and the losses are over their targets (data/manifest.json)."
        return None

    @property
    def curve_sequences(self) -> int:
        """The number of validation sequences of the curves."""
        asked, there = self.recipe.sequences, self.state.validation_sequences
        return asked if there is None else min(asked, there)

    def curves(self, prefix: str = "") -> Curves:
        """Curves of all trainings, and the reference's final loss on the sequences that they are taken on."""
        models = {one.model: one for one in [*self.state.rounds, *self.state.controls]}
        curves = [Curve(prefix + one.name, one.points(models.get(one.model)), one.role) for one in self.trainings]
        levels = final_level(self.folder / "reference", prefix)
        return Curves([curve for curve in curves if curve.points], levels)


def _recipe(folder: Path) -> tuple[str, RunRecipe]:
    """The text of recipe.yaml and what pages need of it."""
    file = folder / "recipe.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        return text, RunRecipe.model_validate(yaml.safe_load(text))
    except FileNotFoundError:
        raise InputError(str(folder), "holds no recipe.yaml", "name the folder of a run") from None
    except (yaml.YAMLError, ValueError, RecursionError, ValidationError):
        what = "is damaged, so what is run here is not known"
        raise InputError(str(file), what, "run the recipe in another folder") from None


def _trainings(folder: Path, controls: Sequence[str]) -> Iterator[TrainingFolder]:
    """The trainings that have a folder: the reference's (where it is trained), rounds, the controls asked for."""
    if (folder / "reference" / "metrics.jsonl").exists():
        yield TrainingFolder("reference", folder / "reference", "reference")
    rounds = [(place, match) for place in _folders(folder / "rounds") if (match := _ROUND.fullmatch(place.name))]
    for place, match in sorted(rounds, key=lambda one: int(one[1][1])):
        yield TrainingFolder(f"round {match[1]}: {many(int(match[2]), 'block')}", place, "round")
    for place in sorted(_folders(folder / "controls")):
        match = _CONTROL.fullmatch(place.name)
        assert match is not None  # it fits any name
        blocks = f", {many(int(match[2]), 'block')}" if match[2] else ""
        if match[1] in controls:
            yield TrainingFolder(f"control: {match[1]}{blocks}", place, "control")


def _folders(place: Path) -> list[Path]:
    return [entry for entry in place.glob("[!.]*") if entry.is_dir()]


def _state(
    folder: Path, recipe: RunRecipe, trainings: list[TrainingFolder], summary: RunSummary | None
) -> RunState:  # fmt: skip
    """The content of summary.json, with what was judged after it was written."""
    if summary is not None and summary.finished:
        return summary
    state: RunState | None = summary
    if state is None:
        judged = read_judged(folder / "reference" / "evaluation.json")
        state = RunState(
            finished=False, rounds=[], controls=[], result=None, tolerance=recipe.tolerance,
            reference=None if judged is None else ReferenceSummary.of(judged, name=recipe.reference_name),
            validation_sequences=None if judged is None else judged.validation_sequences,
            validation_documents=None if judged is None else judged.validation_documents,
        )  # fmt: skip
    rounds, controls = list(state.rounds), list(state.controls)
    known = {one.model for one in [*rounds, *controls]}
    for training in trainings:
        model = training.model
        if training.role == "reference" or model in known or (result := training.judged) is None:
            continue
        if training.role == "round":
            rounds.append(Round.of(result, model=model, blocks=[]))  # only summary.json has them
        else:
            name = training.name.removeprefix("control: ").partition(",")[0]
            controls.append(Control.of(result, model=model, name=name))
    return state.model_copy(update={"rounds": rounds, "controls": controls})
