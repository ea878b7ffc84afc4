"""`compare`: from a suite to arms side by side."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from inheritune import runtime as rt
from inheritune.arm import Conditions
from inheritune.comparison.budgets import check_budgets, is_equal, step_of, tokens_of
from inheritune.comparison.figures import compared
from inheritune.comparison.plan import plan
from inheritune.comparison.planned import Planned, in_name_of
from inheritune.comparison.shared import Shared
from inheritune.comparison.training import Grounds, arm_folder, request_of, result_of, train_arm
from inheritune.corpus import prepare
from inheritune.data import Prepared, Sequences, open_prepared
from inheritune.distillation import Teacher
from inheritune.errors import InherituneError, Interrupted, OtherProcessFailed, RunError, shown_line
from inheritune.evaluation import Evaluation
from inheritune.groundwork import Groundwork, check_basis, check_folder
from inheritune.recipe import Reference, Suite, check, dump_recipe, load_suite
from inheritune.report import write_comparison
from inheritune.request import check_request, only_job
from inheritune.runlog import Terminal, add_lineage, note_start, write_json, write_text

# Parts of a suite that may differ when it goes on. What an arm was begun with stands in its own folder.
_FREE = ("train.checkpoint", "train.micro_batch", "hardware", "track", "arms", "layers", "seeds", "published")


def compare(
    suite: "Suite | dict[str, Any] | str | Path", out: str | Path, *, shared: str | Path | None = None,
    terminal: Terminal | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train and judge all arms of a suite in the folder `out`, or go on where an earlier call stopped.

    `suite` is the path of a YAML file, a mapping like one, or a Suite. `shared` is where prepared text, references that
    are trained for suites, and teachers' outputs are kept for all of them (default: `shared` beside `out`). Returns
    what comparison.json holds. An arm that fails is shown as failed, and the others are trained all the same.

    Raises InputError when the suite is wrong, naming the arm; RunError when the reference or the text fails;
    Interrupted when a signal stopped it.
    """
    if not isinstance(suite, Suite):
        suite = check(Suite, suite, "suite") if isinstance(suite, dict) else load_suite(suite)
    out, terminal = Path(out), terminal or Terminal(quiet=True)
    shared = out.parent / "shared" if shared is None else Path(shared)
    hardware = suite.hardware
    runtime = rt.start(hardware.device, hardware.threads, hardware.timeout.amount)

    def begin() -> None:
        check_folder(out, "suite.yaml", suite, _FREE)
        write_text(out / "suite.yaml", dump_recipe(suite))

    def check_all() -> list[Planned]:
        check_folder(out, "suite.yaml", suite, _FREE)
        check_basis(suite, runtime)
        found = plan(suite, runtime)
        for arm in found:
            for seed in suite.all_seeds:
                with in_name_of(arm.name):
                    check_request(arm_folder(out, arm.name, seed), request_of(arm, seed))
        return found

    planned: list[Planned] = runtime.on_rank0(check_all)
    with only_job(out, runtime):
        runtime.on_rank0(begin)
        return _Course(suite, planned, out, shared, terminal, runtime).go()


class _Course:
    """One call of `compare`."""

    def __init__(
        self, suite: Suite, planned: list[Planned], folder: Path, shared: Path, terminal: Terminal, runtime: rt.Runtime
    ) -> None:
        self.suite, self.planned, self.folder, self.terminal, self.runtime = suite, planned, folder, terminal, runtime
        self.shared = Shared(shared, folder)
        self.results: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in planned}
        self.failures: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in planned}
        facts = {**runtime.describe(), "seed": suite.seed, "micro_batch": suite.train.micro_batch}
        for difference in runtime.on_rank0(lambda: note_start(folder / "manifest.json", facts)):
            terminal.warn(f"{difference}: the result need not equal an uninterrupted one's to the last bit")

    def go(self) -> dict[str, Any]:
        """Text, reference, arms; the results are written after each arm."""
        with only_job(self.shared.place, self.runtime):
            ground, prepared, conditions, reference, judged = self._lay_ground()
            data = {arm.name: self._data(arm, conditions, prepared) for arm in self.planned}
        trained_on = {name: (text, self._sequences(name, text, conditions)) for name, text in data.items()}
        counts = {name: sequences.count for name, (_, sequences) in trained_on.items()}
        self.runtime.on_rank0(
            lambda: check_budgets(self.suite, self.planned, {"": conditions.train_sequences.count, **counts})
        )
        self.budget = tokens_of(self.suite.train, conditions.train_sequences.count) or 0
        for seed in self.suite.all_seeds:
            teachers: dict[str, Teacher] = {}
            for arm in self.planned:
                text, sequences = trained_on[arm.name]
                under = replace(conditions, seed=seed, train_sequences=sequences)
                grounds = Grounds(self.folder, ground.place, judged, under, text.checksums, teachers)
                self._try(arm, grounds)
                self._write(reference)
            found = self._write(reference, shown=True, finished=seed == self.suite.all_seeds[-1])
        return found

    def _lay_ground(self) -> tuple[Groundwork, Prepared, Conditions, dict[str, Any], Evaluation]:
        """The text and the reference, made or read back."""
        suite, made_here = self.suite, self.suite.reference.train is not None

        def places() -> tuple[Path, Path]:
            data = self.shared.data(suite, suite.data)
            return data, self.shared.reference(suite, data) if made_here else self.folder / "reference"

        data, place = self.runtime.on_rank0(places)
        ground = Groundwork(suite, data, place, self.runtime, self.terminal)
        prepared, _ = ground.prepare()
        conditions = ground.conditions(prepared, self.folder.resolve().name)
        found, judged = ground.judge_reference(conditions, prepared)
        lineage = {
            "reference": suite.reference.title,
            "revision": found.get("revision"),
            "data": prepared.checksums,
            "left_over_tokens": conditions.left_over(),
        }
        self.runtime.on_rank0(lambda: add_lineage(self.folder / "manifest.json", lineage))
        folder = os.path.relpath(place.resolve(), self.folder.resolve())
        return ground, prepared, conditions, {**found, "name": suite.reference.title, "folder": folder}, judged

    def _data(self, arm: Planned, conditions: Conditions, prepared: Prepared) -> Prepared:
        """The text that an arm trains on: the suite's, or a selection of its own."""
        own = arm.settings.data
        if own is None:
            return prepared
        data = self.suite.data.model_copy(
            update={"filters": [*self.suite.data.filters, *own.filters], "size": own.size or self.suite.data.size}
        )

        def make() -> Path:
            place = self.shared.data(self.suite, data)
            if not place.exists():
                prepare(data, conditions.tokenizer, place, seed=self.suite.seed, say=self.terminal.say)
            return place

        return open_prepared(self.runtime.on_rank0(make))

    def _sequences(self, name: str, text: Prepared, conditions: Conditions) -> Sequences:
        settings = next(arm.training for arm in self.planned if arm.name == name)
        place = f"arm {name}: training text"
        return Sequences(text.tokens("train"), settings.sequence_length, place, settings.sampling, conditions.packing)

    def _try(self, arm: Planned, grounds: Grounds) -> None:
        """Train an arm; what goes wrong in it is its own, and is shown."""
        seed = grounds.conditions.seed
        try:
            lacking = [name for name in arm.needs if not any(run["seed"] == seed for run in self.results[name])]
            if lacking:
                raise RunError(f"arm {arm.name}", f"it needs the result of {lacking[0]}, which failed", "see that one")
            self._find_teacher(arm, grounds)
            self._find_alike(arm, grounds)
            found = train_arm(arm, grounds)
            self._check_spent(arm, found)
        except Interrupted:
            raise
        except (InherituneError, OSError, RuntimeError, MemoryError) as error:
            if isinstance(error, OtherProcessFailed) and self.runtime.is_rank0:
                raise
            said = shown_line(f"{error}") or type(error).__name__
            self.failures[arm.name].append({"seed": seed, "error": said})
            self.terminal.warn(f"arm {arm.name}, seed {seed}, failed: {said}; going on with the others")
        else:
            self.results[arm.name].append(found | {"folder": f"arms/{arm.name}/seed-{seed}"})

    def _find_teacher(self, arm: Planned, grounds: Grounds) -> None:
        """One object for all arms that learn from the same teacher."""
        if arm.training.distillation is None:
            return
        name = arm.settings.teacher or ""
        if name not in grounds.teachers:
            place = grounds.reference if not name else Reference(path=name)
            if name in self.results:
                place = result_of(grounds.arm_folder(name))
            learn = sum(
                other.training.distillation is not None and (other.settings.teacher or "") == name
                for other in self.planned
            )
            grounds.teachers[name] = Teacher(place, self.shared.teachers(), learn * len(self.suite.all_seeds))

    def _find_alike(self, arm: Planned, grounds: Grounds) -> None:
        """Let an arm be trained once for all suites that have it; known are those of a reference that is shared."""
        if self.suite.reference.train is None or not arm.is_of_reference:
            return
        spec = {
            **request_of(arm, grounds.conditions.seed),
            "data": grounds.data,
            "reference": Path(grounds.reference.title).parent.name,
            "best": arm.training.checkpoint.best,
            "tolerance": self.suite.evaluate.tolerance,
        }
        folder = grounds.arm_folder(arm.name)
        if self.runtime.on_rank0(lambda: self.shared.arm(folder, spec)):
            self.terminal.say(f"{arm.name}, seed {grounds.conditions.seed}: trained already, {folder.resolve()}")

    def _check_spent(self, arm: Planned, found: dict[str, Any]) -> None:
        """Equal budgets, by the tokens that were recorded."""
        step = step_of(self.suite, arm)
        if arm.settings.allow_unequal is None and not is_equal(found["tokens"], self.budget, step):
            raise RunError(
                f"arm {arm.name}",
                f"it was trained on {found['tokens']:,} tokens, the suite's arms on {self.budget:,}",
                "say in allow_unequal why it differs",
            )

    def _write(self, reference: dict[str, Any], shown: bool = False, finished: bool = False) -> dict[str, Any]:
        """comparison.json, after each arm, so that what is stopped has something to show; `shown`: the report too."""

        def write() -> dict[str, Any]:
            found = compared(self.suite, self.planned, self.folder, reference, self.results, self.failures, self.budget)
            found = {"finished": finished, **found}
            write_json(self.folder / "comparison.json", found)
            if shown:
                write_comparison(self.folder, found)
            return found

        return self.runtime.on_rank0(write)
