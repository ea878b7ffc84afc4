"""`run`: from a recipe to a smaller model and the evidence."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.arch import build_random, layer_count, load_config, load_model
from inheritune.arm import Arm, Conditions, run_arm
from inheritune.card import without_stopping, write_cards
from inheritune.data import Prepared
from inheritune.distillation import Teacher
from inheritune.evaluation import Evaluation, gap
from inheritune.groundwork import Groundwork, check_folder
from inheritune.growth import Growth, best_round, chosen, depths, with_blocks
from inheritune.inheritance import target_config
from inheritune.pipeline.looking import look
from inheritune.pipeline.preflight import check_inputs
from inheritune.pipeline.summary import SUMMARY_KEYS, summarise
from inheritune.pipeline.tasks import judge_tasks
from inheritune.recipe import Inherit, Recipe, Size, dump_recipe
from inheritune.report import write_report, write_reports
from inheritune.request import only_job
from inheritune.runlog import Terminal, add_lineage, note_start, read_mapping, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Parts of a recipe that change how a run proceeds and not what comes out; they may differ when a run goes on.
_FREE = (
    "train.checkpoint", "train.micro_batch", "hardware", "track", "evaluate.analyze", "evaluate.prompts",
    "evaluate.new_tokens", "evaluate.tasks", "evaluate.tasks_folder", "evaluate.trust_task_files",
)  # fmt: skip


def run(recipe: Recipe, folder: str | Path, terminal: Terminal | None = None) -> dict[str, Any]:
    """Carry out a recipe in `folder`, or go on where an earlier call stopped; returns what summary.json holds.

    Raises InputError when the input is wrong, RunError when the work fails, Interrupted when a signal stopped it.
    """
    folder, terminal = Path(folder), terminal or Terminal(quiet=True)
    hardware = recipe.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)

    def check() -> None:
        check_folder(folder, "recipe.yaml", recipe, _FREE)
        if not (folder / "summary.json").exists():
            check_inputs(recipe, runtime)

    def begin() -> None:
        check_folder(
            folder, "recipe.yaml", recipe, _FREE
        )  # again, as another process may have begun there in the meantime
        write_text(folder / "recipe.yaml", dump_recipe(recipe))

    runtime.first_does(check)
    with only_job(folder, runtime):
        runtime.first_does(begin)
        return _Run(recipe, folder, terminal, runtime).go()


class _Run:
    """One call of `run`."""

    def __init__(self, recipe: Recipe, folder: Path, terminal: Terminal, runtime: rt.Runtime) -> None:
        self.recipe, self.folder, self.terminal, self.runtime = recipe, folder, terminal, runtime
        self.ground = Groundwork(recipe, folder / "data", folder / "reference", runtime, terminal)
        facts = {**runtime.describe(), "seed": recipe.seed, "micro_batch": recipe.train.micro_batch}
        for difference in runtime.first_does(lambda: note_start(folder / "manifest.json", facts)):
            terminal.warn(f"{difference}: the result need not equal an uninterrupted run's to the last bit")

    def go(self) -> dict[str, Any]:
        """All stages."""
        finished = self.folder / "summary.json"
        if finished.exists() and read_mapping(finished, "finished")["finished"]:
            self.terminal.say(f"{self.folder}: finished before; its report is written anew")
            summary = read_mapping(finished, *SUMMARY_KEYS)
            judge_tasks(self.recipe, self.folder, self.ground, summary["result"]["model"])
            self.runtime.first_does(lambda: write_reports([self.folder]))
            self._write_cards(summary)
            self._look(summary)
            return summary
        prepared, data_seconds = self.ground.prepare()
        conditions = self.ground.conditions(prepared, self.folder.resolve().name)
        reference, judged = self._reference(conditions, prepared)
        recipe, place = self.recipe, self.ground.place
        inherit, dropped = chosen(place, recipe.inherit, conditions, self.folder / "selection.json")
        growth = Growth(
            place, judged, reference["layers"], inherit, recipe.grow, self.folder / "rounds", dropped,
            self._teacher(inherit, reference["layers"]),
        )  # fmt: skip
        rounds = growth.run(conditions, lambda done: self._summarise(reference, done, [], data_seconds, finished=False))
        controls = [self._control(name, rounds, growth, conditions) for name in recipe.controls]
        if recipe.evaluate.tasks:  # which may take long, so that what there is comes before
            so_far = self._summarise(reference, rounds, controls, data_seconds, finished=False)
            judge_tasks(recipe, self.folder, self.ground, so_far["result"]["model"])
        summary = self._summarise(reference, rounds, controls, data_seconds, finished=True)
        self._write_cards(summary)
        self._look(summary)
        return summary

    def _write_cards(self, summary: dict[str, Any]) -> None:
        def write() -> None:
            with without_stopping(self.terminal.warn, "start the run again to write it"):
                write_cards(self.folder, self.recipe, summary)

        self.runtime.first_does(write)

    def _look(self, summary: dict[str, Any]) -> None:
        """Heads, layers and samples of reference and result. They come last: a run stands without them."""
        model = summary["result"]["model"]
        if look(self.recipe, self.folder, model, self.ground.place, self.runtime, self.terminal):
            self.runtime.first_does(lambda: write_reports([self.folder]))

    def _teacher(self, inherit: Inherit, blocks: int) -> Teacher | None:
        """The reference, for a recipe with distillation: of all rounds that there may be, and of the random control."""
        recipe = self.recipe
        if recipe.train.distillation is None:
            return None
        trainings = len(depths(inherit, recipe.grow, blocks)) + ("random" in recipe.controls)
        return Teacher(self.ground.place, self.folder / "teacher", trainings)

    def _reference(self, conditions: Conditions, prepared: Prepared) -> tuple[dict[str, Any], Evaluation]:
        """The reference, trained if the recipe says so, and its losses."""
        found, judged = self.ground.judge_reference(conditions, prepared)
        lineage = {
            "reference": self.recipe.reference.title,
            "revision": found.get("revision"),
            "data": prepared.checksums,
            "left_over_tokens": conditions.left_over(),
        }
        self.runtime.first_does(lambda: add_lineage(self.folder / "manifest.json", lineage))
        return found, judged

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
            place = self.ground.place
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
