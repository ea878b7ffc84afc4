"""`run`: from a recipe to a smaller model and the evidence."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from inheritune import runtime as rt
from inheritune.arch import (
    build_random,
    check_tokenizer_fits,
    layer_count,
    load_config,
    load_model,
    load_tokenizer,
    new_config,
    parameter_count,
)
from inheritune.arm import Arm, Conditions, only_job, run_arm
from inheritune.data import Prepared, check_tokenizer, check_vocabulary, open_prepared
from inheritune.distillation import Teacher
from inheritune.errors import InputError
from inheritune.evaluation import Evaluation, gap
from inheritune.growth import Growth, best_round, depths, with_blocks
from inheritune.inheritance import target_config
from inheritune.pipeline.preflight import check_inputs
from inheritune.pipeline.summary import summarise
from inheritune.pipeline.text import prepare_data
from inheritune.recipe import NewTokenizer, Recipe, Reference, Size, Training, changes, dump_recipe
from inheritune.report import write_report
from inheritune.runlog import Terminal, add_lineage, note_start, read_json, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Parts of a recipe that change how a run proceeds and not what comes out; they may differ when a run goes on.
_FREE = ("train.checkpoint", "train.micro_batch", "hardware", "track")


def run(recipe: Recipe, folder: str | Path, terminal: Terminal | None = None) -> dict[str, Any]:
    """Carry out a recipe in `folder`, or go on where an earlier call stopped; returns what summary.json holds.

    Raises InputError when the input is wrong, RunError when the work fails, Interrupted when a signal stopped it.
    """
    folder, terminal = Path(folder), terminal or Terminal(quiet=True)
    hardware = recipe.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)

    def check() -> None:
        _check_folder(folder, recipe)
        if not (folder / "summary.json").exists():
            check_inputs(recipe, runtime)

    def begin() -> None:
        _check_folder(folder, recipe)  # again, as another process may have begun there in the meantime
        write_text(folder / "recipe.yaml", dump_recipe(recipe))

    runtime.first_does(check)
    with only_job(folder, runtime):
        runtime.first_does(begin)
        return _Run(recipe, folder, terminal, runtime).go()


class _Run:
    """One call of `run`."""

    def __init__(self, recipe: Recipe, folder: Path, terminal: Terminal, runtime: rt.Runtime) -> None:
        self.recipe, self.folder, self.terminal, self.runtime = recipe, folder, terminal, runtime
        facts = {**runtime.describe(), "seed": recipe.seed, "micro_batch": recipe.train.micro_batch}
        for difference in runtime.first_does(lambda: note_start(folder / "manifest.json", facts)):
            terminal.warn(f"{difference}: the result need not equal an uninterrupted run's to the last bit")

    def go(self) -> dict[str, Any]:
        """All stages."""
        finished = self.folder / "summary.json"
        if finished.exists() and read_json(finished).get("finished"):
            self.terminal.say(f"{self.folder}: finished before; its report is written anew")
            summary: dict[str, Any] = read_json(finished)
            self.runtime.first_does(lambda: write_report(self.folder, summary))
            return summary
        prepared, data_seconds = self._prepare()
        tokenizer = self._tokenizer(prepared)
        recipe = self.recipe
        conditions = Conditions.of(
            recipe.train, recipe.evaluate, recipe.seed, self.runtime, self.terminal, tokenizer, prepared,
            recipe.hardware.parallel,
        )  # fmt: skip
        conditions = replace(
            conditions, track=tuple(recipe.track), title=self.folder.resolve().name,
            trust_remote_code=recipe.reference.trust_remote_code,
        )  # fmt: skip
        reference, judged = self._reference(conditions, prepared)
        growth = Growth(
            self._reference_place(), judged, reference["layers"], recipe.inherit, recipe.grow, self.folder / "rounds",
            self._teacher(reference["layers"]),
        )  # fmt: skip
        rounds = growth.run(conditions, lambda done: self._summarise(reference, done, [], data_seconds, finished=False))
        controls = [self._control(name, rounds, growth, conditions) for name in recipe.controls]
        return self._summarise(reference, rounds, controls, data_seconds, finished=True)

    def _prepare(self) -> tuple[Prepared, float]:
        """The data stage: the prepared tokens, and the seconds that it took."""
        place = self.folder / "data"

        def fill() -> None:
            prepare_data(self.recipe, place, self.terminal.say)

        self.runtime.first_does(fill)
        found = open_prepared(place)
        return found, found.manifest["seconds"] if self.recipe.data.sources else 0.0

    def _tokenizer(self, prepared: Prepared) -> "PreTrainedTokenizerBase":
        new = self.recipe.reference.train
        if new is None:
            tokenizer = load_tokenizer(self.recipe.reference, self.terminal.say)
        elif isinstance(new.tokenizer, NewTokenizer):
            tokenizer = load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))
        else:
            tokenizer = load_tokenizer(Reference(path=new.tokenizer))
        check_tokenizer(prepared, tokenizer, "data")
        return tokenizer

    def _reference_place(self) -> Reference:
        """Where the reference's weights are, once it is made."""
        if self.recipe.reference.train is None:
            return self.recipe.reference
        return Reference(path=str(self.folder / "reference" / "model"))

    def _teacher(self, blocks: int) -> Teacher | None:
        """The reference, for a recipe with distillation: of all rounds that there may be, and of the random control."""
        recipe = self.recipe
        if recipe.train.distillation is None:
            return None
        trainings = len(depths(recipe.inherit, recipe.grow, blocks)) + ("random" in recipe.controls)
        return Teacher(self._reference_place(), self.folder / "teacher", trainings)

    def _reference(self, conditions: Conditions, prepared: Prepared) -> tuple[dict[str, Any], Evaluation]:
        """The reference, trained if the recipe says so, and its losses."""
        place = self.folder / "reference"
        if self.recipe.reference.train is not None:
            found = self._train_reference(conditions, place)
        else:
            judged = place / "evaluation.json"
            before = self.runtime.first_does(lambda: read_json(judged) if judged.exists() else None)
            found = before or self._judge_reference(conditions, prepared, place)
        lineage = {
            "reference": self.recipe.reference.title,
            "revision": found.get("revision"),
            "data": prepared.checksums,
            "left_over_tokens": conditions.left_over(),
        }
        self.runtime.first_does(lambda: add_lineage(self.folder / "manifest.json", lineage))
        return found, Evaluation(tuple(found["sequence_losses"]))

    def _train_reference(self, conditions: Conditions, place: Path) -> dict[str, Any]:
        new, recipe = self.recipe.reference.train, self.recipe
        assert new is not None
        tokenizer = conditions.tokenizer
        tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        config = new_config(new.model, len(tokenizer), tokens, recipe.train.sequence_length)
        own = {name: value for name in ("length", "optimizer", "schedule") if (value := getattr(new, name)) is not None}
        settings: Training = recipe.train.model_copy(update={**own, "distillation": None})
        return run_arm(Arm("reference", place, lambda: build_random(config, recipe.seed), settings), conditions, None)

    def _judge_reference(self, conditions: Conditions, prepared: Prepared, place: Path) -> dict[str, Any]:
        began = time.monotonic()
        self.terminal.say(f"reference: loading and evaluating {self.recipe.reference.title}")
        model = load_model(self.recipe.reference)
        check_vocabulary(prepared, model.config.vocab_size, self.recipe.reference.title)
        check_tokenizer_fits(conditions.tokenizer, model.config, self.recipe.reference.title)
        evaluation = conditions.judge(model.float())
        found = {
            "name": "reference",
            "layers": layer_count(model.config),
            "parameters": parameter_count(model),
            "val_loss": evaluation.loss.value,
            "val_loss_se": evaluation.loss.error,
            "validation_sequences": len(evaluation.losses),
            "revision": getattr(model.config, "_commit_hash", None),
            "wall_seconds": round(time.monotonic() - began, 3),
            "sequence_losses": list(evaluation.losses),
        }
        self.terminal.say(f"reference: {found['layers']} blocks, validation loss {found['val_loss']:.4f}")
        self.runtime.first_does(lambda: write_json(place / "evaluation.json", found))
        return found

    def _control(
        self, name: str, rounds: list[dict[str, Any]], growth: Growth, conditions: Conditions
    ) -> dict[str, Any]:
        """A control at the depth and budget of the result, with its distance to the result.

        The budget is that of all rounds which the result went on from, its own included. The random one has the rounds'
        teacher; the reference is not taught by itself, as that would hold it back from what the text could give it.
        """
        result = best_round(rounds)
        seed, kept = self.recipe.seed, result["blocks"]

        def build() -> "PreTrainedModel":
            place = self._reference_place()
            if name == "reference-continued":
                return load_model(place)
            config = load_config(place)
            wish = with_blocks(self.recipe.inherit, kept)
            return build_random(
                target_config(config, wish, layer_count(config)), seed, trust_remote_code=place.trust_remote_code
            )

        depth = result["layers"] if name == "random" else None
        folder = name if depth is None else f"{name}-{depth}layers"
        steps = result["steps"] + result.get("steps_before", 0)
        settings = conditions.training.model_copy(update={"length": Size(steps, "steps")})
        teacher = growth.teacher if name == "random" else None
        if teacher is None:
            settings = settings.model_copy(update={"distillation": None})
        arm = Arm(f"control {folder}", self.folder / "controls" / folder, build, settings, teacher)
        found = run_arm(arm, conditions, growth.reference)
        over = gap(found["sequence_losses"], result["sequence_losses"])
        return found | {
            "name": name,
            "folder": folder,
            "over_result": over.value,
            "over_result_se": over.error,
        }

    def _summarise(
        self, reference: dict[str, Any], rounds: list[dict[str, Any]], controls: list[dict[str, Any]],
        data_seconds: float, finished: bool,
    ) -> dict[str, Any]:  # fmt: skip
        """Write summary.json and the report: after each round, so that a run that is stopped has something to show."""
        parts = [*rounds, *controls, reference]
        wall = data_seconds + sum(part["wall_seconds"] for part in parts)

        def write() -> dict[str, Any]:
            summary = summarise(self.recipe, reference, rounds, controls, round(wall, 1), rt.peak_memory(), finished)
            write_report(self.folder, summary)
            write_json(self.folder / "summary.json", summary)
            return summary

        return self.runtime.first_does(write)


def _check_folder(folder: Path, recipe: Recipe) -> None:
    """Raise InputError when `folder` belongs to another recipe, or to something that is not a run."""
    if folder.exists() and not folder.is_dir():
        raise InputError(str(folder), "is a file", "give another --out")
    if not folder.exists() or not any(not entry.name.startswith(".") for entry in folder.iterdir()):
        return
    saved = folder / "recipe.yaml"
    if not saved.is_file():
        raise InputError(str(folder), "is not empty and not a run's folder", "give another --out")
    try:
        before = yaml.safe_load(saved.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InputError(
            str(saved), "is damaged, so that nothing says what is run here", "give another --out"
        ) from None
    changed = changes(before, yaml.safe_load(dump_recipe(recipe)), _FREE)
    if changed:
        raise InputError(
            str(folder),
            f"belongs to another recipe: {', '.join(changed[:3])}",
            "give another --out, or the recipe it was begun with",
        )
