"""`compare`: all arms of a suite, trained, judged and set side by side."""

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from inheritune import runtime as rt
from inheritune.corpus import prepare
from inheritune.data import Sequences, open_prepared
from inheritune.distillation import Teacher
from inheritune.errors import InherituneError, Interrupted, OtherProcessFailed, RunError, shown_line
from inheritune.experiment.arms import arm_folder, request_of, train_arm, trained_model
from inheritune.experiment.checks import plan_checked
from inheritune.experiment.comparison import set_side_by_side
from inheritune.experiment.context import RunContext
from inheritune.experiment.folders import check_request, only_job, opened
from inheritune.experiment.plan import PlannedArm, check_budgets, in_name_of, is_equal, tokens_of
from inheritune.experiment.setup import Setup
from inheritune.experiment.store import Shared
from inheritune.experiment.suite import Suite, load_suite
from inheritune.recipe import Reference, check
from inheritune.report import write_report
from inheritune.results import ArmResult, Comparison, Failure, ReferenceSummary
from inheritune.runlog import logger

# Keys of a suite that may differ when a comparison is resumed. What an arm was started with is in its own folder.
_FREE = ("train.checkpoint", "train.micro_batch", "hardware", "track", "arms", "layers", "seeds", "published")


def compare(
    suite: "Suite | Mapping[str, Any] | str | Path", out: str | Path, *, shared: str | Path | None = None
) -> Comparison:
    """Train and judge all arms of a suite in the folder `out`, or resume an unfinished comparison.

    `suite` is the path of a YAML file, a mapping like one, or a Suite. Prepared text, references that are trained for
    suites, and teachers' outputs are kept for all suites in `shared` (default: `shared` beside `out`). Returns what is
    in comparison.json. An arm that fails is marked as failed, and the others are still trained.

    Raises InputError when the suite is wrong, naming the arm; RunError when the reference or the text fails;
    Interrupted when a signal stopped it.
    """
    if not isinstance(suite, Suite):
        suite = check(Suite, dict(suite), "suite") if isinstance(suite, Mapping) else load_suite(suite)
    out = Path(out)
    shared = out.parent / "shared" if shared is None else Path(shared)
    hardware = suite.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)

    def check_all() -> list[PlannedArm]:
        arms = plan_checked(suite, runtime)
        for arm in arms:
            for seed in suite.all_seeds:
                with in_name_of(arm.name):
                    check_request(arm_folder(out, arm.name, seed), request_of(arm, seed))
        return arms

    with opened(out, "suite.yaml", suite, _FREE, check_all, runtime) as arms:
        return _Comparing(suite, arms, out, shared, runtime).run()


class _Comparing:
    """One call of `compare`."""

    def __init__(self, suite: Suite, arms: list[PlannedArm], folder: Path, shared: Path, runtime: rt.Runtime) -> None:
        self.suite, self.arms, self.folder, self.runtime = suite, arms, folder, runtime
        self.shared = Shared(shared, folder)
        self.results: dict[str, list[ArmResult]] = {arm.name: [] for arm in arms}
        self.failures: dict[str, list[Failure]] = {arm.name: [] for arm in arms}
        self.teachers: dict[tuple[str | None, int], Teacher] = {}
        self.budget = 0

    def run(self) -> Comparison:
        """Text, reference, arms; the results are written after each arm."""
        suite = self.suite
        with only_job(self.shared.place, self.runtime, wait=True):
            setup = self._set_up()
            result, context = setup.judge_reference(setup.context())
            contexts = {arm.name: self._context(arm, context) for arm in self.arms}
        folder = os.path.relpath(setup.reference.resolve(), self.folder.resolve())
        reference = ReferenceSummary.of(result, name=suite.reference.title, folder=folder)
        counts = {name: own.train_sequences.count for name, own in contexts.items()}
        counts[""] = context.train_sequences.count
        self.runtime.on_rank0(lambda: check_budgets(suite, self.arms, counts))
        self.budget = tokens_of(suite.train, counts[""]) or 0

        def write(*, report: bool = False, finished: bool = False) -> Comparison:
            comparison = set_side_by_side(
                suite, self.arms, self.folder, reference, result, self.results, self.failures,
                self.budget, finished,
            )  # fmt: skip
            comparison.write(self.folder / "comparison.json")
            if report:
                write_report(self.folder, comparison)
            return comparison

        for seed in suite.all_seeds:
            for arm in self.arms:
                self._try(arm, replace(contexts[arm.name], seed=seed), setup)
                self.runtime.on_rank0(write)
            is_last = seed == suite.all_seeds[-1]
            comparison = self.runtime.on_rank0(partial(write, report=True, finished=is_last))
        return comparison

    def _set_up(self) -> Setup:
        suite = self.suite

        def places() -> tuple[Path, Path]:
            data = self.shared.data(suite, suite.data)
            is_trained = suite.reference.is_trained
            return data, self.shared.reference(suite, data) if is_trained else self.folder / "reference"

        return Setup(suite, self.folder, *self.runtime.on_rank0(places), self.runtime)

    def _context(self, arm: PlannedArm, context: RunContext) -> RunContext:
        """The context of an arm, which trains on the suite's text or on a selection of its own."""
        own, suite, settings, prepared = arm.settings.data, self.suite, arm.training, context.prepared
        if own is not None:
            changes = {"filters": [*suite.data.filters, *own.filters], "size": own.size or suite.data.size}
            data = suite.data.model_copy(update=changes)

            def make() -> Path:
                place = self.shared.data(suite, data)
                if not place.exists():
                    prepare(data, context.tokenizer, place, seed=suite.seed)
                return place

            prepared = open_prepared(self.runtime.on_rank0(make))
        text, place = prepared.tokens("train"), f"arm {arm.name}: training text"
        sequences = Sequences(text, settings.sequence_length, place, settings.sampling, context.packing)
        return replace(context, prepared=prepared, train_sequences=sequences)

    def _try(self, arm: PlannedArm, context: RunContext, setup: Setup) -> None:
        """Train an arm. A failure is recorded, and the other arms are still trained."""
        seed, folder = context.seed, arm_folder(self.folder, arm.name, context.seed)
        try:
            lacking = [name for name in arm.needs if not any(result.seed == seed for result in self.results[name])]
            if lacking:
                raise RunError(f"arm {arm.name}", f"it needs the result of {lacking[0]}, which failed", "see that one")
            teacher, origin = self._teacher(arm, seed, setup), self._origin(arm.settings.start.origin, seed, setup)
            self._share(arm, folder, context, setup)
            result = train_arm(arm, folder, origin, context, teacher)
            if arm.settings.allow_unequal is None and not is_equal(result.tokens, self.budget, self.suite, arm):
                what = f"it was trained on {result.tokens:,} tokens, the suite's arms on {self.budget:,}"
                raise RunError(f"arm {arm.name}", what, "say in allow_unequal why it differs")
        except Interrupted:
            raise
        except (InherituneError, OSError, RuntimeError, MemoryError) as error:
            if isinstance(error, OtherProcessFailed) and self.runtime.is_rank0:
                raise
            words = shown_line(f"{error}") or type(error).__name__
            self.failures[arm.name].append(Failure(seed=seed, error=words))
            logger.warning(f"arm {arm.name}, seed {seed}, failed: {words}; the other arms are still trained")
            return
        self.results[arm.name].append(result)

    def _origin(self, name: str | None, seed: int, setup: Setup) -> Reference:
        """The model `name`: the reference (None), what an arm has trained, or a model elsewhere."""
        if name in self.results:
            return trained_model(arm_folder(self.folder, str(name), seed))
        return setup.model if name is None else Reference(path=name)

    def _teacher(self, arm: PlannedArm, seed: int, setup: Setup) -> Teacher | None:
        """The arm's teacher, one object for all arms that learn from it."""
        if arm.training.distillation is None:
            return None
        name = arm.settings.teacher
        if (name, seed) not in self.teachers:
            learners = sum(
                other.training.distillation is not None and other.settings.teacher == name for other in self.arms
            )
            place, trainings = self._origin(name, seed, setup), learners * len(self.suite.all_seeds)
            self.teachers[name, seed] = Teacher(place, self.shared.place / "teachers", trainings)
        return self.teachers[name, seed]

    def _share(self, arm: PlannedArm, folder: Path, context: RunContext, setup: Setup) -> None:
        """Let an arm that depends on a shared reference alone be trained once for all suites that have it."""
        if not self.suite.reference.is_trained or not arm.needs_reference_only:
            return
        spec = {
            **request_of(arm, context.seed),
            "data": context.prepared.checksums,
            "reference": setup.reference.name,
            "best": arm.training.checkpoint.best,
            "tolerance": self.suite.evaluate.tolerance,
        }
        if self.runtime.on_rank0(lambda: self.shared.arm(folder, spec)):
            logger.info(f"{arm.name}, seed {context.seed}: trained already, {folder.resolve()}")
