"""`run`: from a recipe to a smaller model and the evidence. A grown arm and its controls."""

from pathlib import Path

from inheritune import runtime as rt
from inheritune.card import without_stopping, write_cards
from inheritune.data import Prepared
from inheritune.distillation import Teacher
from inheritune.evaluation import Evaluation, gap
from inheritune.experiment.checks import check_recipe
from inheritune.experiment.choice import decide
from inheritune.experiment.context import RunContext
from inheritune.experiment.folders import opened
from inheritune.experiment.post_run import PostRun
from inheritune.experiment.rounds import best_round, continues, round_stages
from inheritune.experiment.setup import Setup
from inheritune.experiment.stage import Stage
from inheritune.experiment.stages import Stages
from inheritune.experiment.tasks import judge_tasks
from inheritune.recipe import Recipe, Size
from inheritune.report import write_report
from inheritune.results import Control, ModelResult, Outcome, ReferenceSummary, Round, RoundResult, RunSummary
from inheritune.runlog import Terminal

# Keys of a recipe that affect how a run executes but not its result; they may differ when a run is resumed.
_FREE = (
    "train.checkpoint", "train.micro_batch", "hardware", "track", "evaluate.analyze", "evaluate.prompts",
    "evaluate.new_tokens", "evaluate.tasks", "evaluate.tasks_folder", "evaluate.trust_task_files",
)  # fmt: skip
_ROUNDS, _CONTROLS = "rounds", "controls"


def run(recipe: Recipe, folder: str | Path, terminal: Terminal | None = None) -> RunSummary:
    """Run a recipe in `folder`, or resume an unfinished run; returns what is in summary.json.

    Raises InputError when the input is wrong, RunError when the work fails, Interrupted when a signal stopped it.
    """
    folder, terminal = Path(folder), terminal or Terminal(quiet=True)
    hardware = recipe.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)

    def check() -> None:
        if not (folder / "summary.json").exists():
            check_recipe(recipe, runtime)

    with opened(folder, "recipe.yaml", recipe, _FREE, check, terminal, runtime):
        return _Run(recipe, folder, terminal, runtime).run()


class _Run:
    """One call of `run`."""

    def __init__(self, recipe: Recipe, folder: Path, terminal: Terminal, runtime: rt.Runtime) -> None:
        self.recipe, self.folder, self.terminal, self.runtime = recipe, folder, terminal, runtime
        self.setup = Setup(recipe, folder / "data", folder / "reference", runtime, terminal)

    def run(self) -> RunSummary:
        """All stages, or for a finished run its report, tasks and analysis as the recipe asks for them now."""
        file = self.folder / "summary.json"
        summary = self.runtime.on_rank0(lambda: RunSummary.read(file) if file.exists() else None)
        if summary is not None and summary.finished:
            self.terminal.say(f"{self.folder}: finished before; its report is written again")
            judge_tasks(self.recipe, self.folder, self.setup, summary.result.model)
            self._write_report(summary)
        else:
            summary = self._train()
        self._write_cards(summary)
        # Heads, layers and samples come last: a run is complete without them.
        model = summary.result.model
        after = PostRun(self.recipe, self.folder, model, self.setup.model, self.runtime, self.terminal)
        if after.write():
            self._write_report(summary)
        return summary

    def _train(self) -> RunSummary:
        recipe = self.recipe
        prepared = self.setup.prepare()
        context = self.setup.context(prepared, self.folder.resolve().name)
        reference = self.setup.judge_reference(context, prepared, self.folder / "manifest.json")
        judged, source = Evaluation(tuple(reference.sequence_losses)), self.setup.model
        inherit, dropped = decide(source, recipe.inherit, context, self.folder / "selection.json")
        stages = round_stages(inherit, recipe.grow, reference.layers, dropped)
        teacher = self._teacher(len(stages))

        def write(rounds: list[RoundResult], controls: list[Control], seconds: float, finished: bool) -> RunSummary:
            return self._write(prepared, reference, rounds, controls, seconds, finished)

        def after_round(rounds: list[RoundResult]) -> None:
            write(rounds, [], 0.0, False)

        own = Stages(
            source, judged, self.folder / _ROUNDS, context, lambda stage: f"round {stage.folder}", teacher
        )  # fmt: skip
        rounds = own.train(
            stages, [recipe.train] * len(stages), lambda matched: continues(matched, recipe.grow, len(stages)),
            after_round, say_verdict=True,
        )  # fmt: skip
        controls, seconds = [], 0.0
        for name in recipe.controls:
            control, took = self._control(name, rounds, judged, context, teacher)
            controls.append(control)
            seconds += took
        if recipe.evaluate.tasks:  # which may take long, so the summary is written before
            so_far = write(rounds, controls, seconds, False)
            judge_tasks(recipe, self.folder, self.setup, so_far.result.model)
        return write(rounds, controls, seconds, True)

    def _teacher(self, rounds: int) -> Teacher | None:
        """The reference, for a recipe with distillation: of all rounds that there may be, and of the random control."""
        recipe = self.recipe
        if recipe.train.distillation is None:
            return None
        return Teacher(self.setup.model, self.folder / "teacher", rounds + ("random" in recipe.controls))

    def _control(
        self, name: str, rounds: list[RoundResult], judged: Evaluation, context: RunContext, teacher: Teacher | None
    ) -> tuple[Control, float]:
        """A control with the depth and the budget of the result, and the seconds that it took.

        The budget is that of all rounds that the result continues, its own included. The random control has the rounds'
        teacher. The reference is not taught by itself, which would keep it from what it can learn from the text.
        """
        result = best_round(rounds)
        steps = result.steps + (result.steps_before or 0)
        settings = context.training.model_copy(update={"length": Size(steps, "steps")})
        if name == "random":
            assert result.blocks is not None
            folder, inherit = f"{name}-{result.layers}layers", self.recipe.inherit
            stage = Stage(result.blocks, "random", inherit.submodules, inherit.width, folder=folder)
        else:
            stage = Stage([], "whole", folder=name)
            settings = settings.model_copy(update={"distillation": None})
        own = Stages(
            self.setup.model, judged, self.folder / _CONTROLS, context, lambda one: f"control {one.folder}", teacher
        )  # fmt: skip
        found = own.train_one(stage, settings)
        over = gap(found.sequence_losses, result.sequence_losses)
        model = f"{_CONTROLS}/{found.folder}/model"
        control = Control.of(
            found, name=name, model=model, over_result=over.value, over_result_se=over.error
        )  # fmt: skip
        return control, found.wall_seconds

    def _write(
        self, prepared: Prepared, reference: ModelResult, rounds: list[RoundResult], controls: list[Control],
        control_seconds: float, finished: bool,
    ) -> RunSummary:  # fmt: skip
        """Write summary.json and the report: after each round, so that a run that is stopped has something to show."""
        data_seconds = prepared.manifest.get("seconds", 0.0) if self.recipe.data.sources else 0.0
        seconds = data_seconds + sum(one.wall_seconds for one in rounds) + control_seconds + reference.wall_seconds
        best = best_round(rounds)

        def write() -> RunSummary:
            summary = RunSummary(
                finished=finished,
                reference=ReferenceSummary.of(reference, name=self.recipe.reference.title),
                rounds=[Round.of(one, model=f"{_ROUNDS}/{one.folder}/model") for one in rounds],
                controls=controls,
                result=Outcome.of(best, model=f"{_ROUNDS}/{best.folder}/model"),
                tolerance=self.recipe.evaluate.tolerance,
                validation_sequences=reference.validation_sequences,
                wall_seconds=round(seconds, 1),
                peak_memory_bytes=rt.peak_memory(),
            )
            write_report(self.folder, summary)
            summary.write(self.folder / "summary.json")
            return summary

        return self.runtime.on_rank0(write)

    def _write_report(self, summary: RunSummary) -> None:
        def write() -> None:
            write_report(self.folder, summary)

        self.runtime.on_rank0(write)

    def _write_cards(self, summary: RunSummary) -> None:
        def write() -> None:
            with without_stopping(self.terminal.warn, "start the run again to write it"):
                write_cards(self.folder, self.recipe, summary)

        self.runtime.on_rank0(write)
