"""One arm, once: its stages trained one after the other, judged, and its figures with all stages counted."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune.arch import build_random, layer_count, load_config, load_model
from inheritune.arm import Arm, Conditions, run_arm
from inheritune.comparison.best import best_figures
from inheritune.comparison.planned import Planned, in_name_of
from inheritune.comparison.starts import first_stage_wish, measured_wish, wish_of
from inheritune.distillation import Teacher
from inheritune.errors import InputError
from inheritune.evaluation import Evaluation
from inheritune.growth import Growth, best_round, choose_once, chosen
from inheritune.inheritance import derive, describe_plan, resolve, target_config
from inheritune.recipe import GrowthStart, Inherit, Reference, Size, StackingStart, Training
from inheritune.request import asked, begun
from inheritune.runlog import read_json, write_json
from inheritune.training import planned_steps

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST = "first-stage"
ROUNDS = "rounds"
SELECTION = "selection.json"


def arm_folder(folder: Path, name: str, seed: int) -> Path:
    """Where an arm is trained with a seed, in the folder of a comparison."""
    return folder / "arms" / name / f"seed-{seed}"


@dataclass(frozen=True)
class Grounds:
    """What an arm finds: the folder of the comparison, the reference and its losses, what it trains under, teachers.

    `data` are the checksums of the text that it trains on.
    """

    folder: Path
    reference: Reference
    judged: Evaluation
    conditions: Conditions
    data: dict[str, str]
    teachers: dict[str, Teacher] = field(repr=False)

    def arm_folder(self, name: str) -> Path:
        """Where an arm of this seed is."""
        return arm_folder(self.folder, name, self.conditions.seed)

    def origin(self, arm: Planned) -> Reference:
        """Where an arm's weights come from (its random ones: their shape)."""
        if arm.source is not None:
            return result_of(self.arm_folder(arm.source))
        of = getattr(arm.settings.start, "of", None)
        return self.reference if of is None else Reference(path=of)


_RESULT = ("seed", "layers", "parameters", "tokens", "flops", "val_loss", "val_loss_se", "model", "stages")
"""Keys of result.json that are needed."""


def result_of(folder: Path) -> Reference:
    """The trained model of an arm's folder."""
    notes = folder / "result.json"
    return Reference(path=str(folder / read_json(notes, "model")["model"]))


def request_of(arm: Planned, seed: int) -> dict[str, Any]:
    """What tells an arm from another one in the same folder, but for its text."""
    teacher = arm.settings.teacher
    return {"start": arm.start, "layers": arm.depth, "teacher": teacher, "seed": seed, **asked(arm.training)}


def train_arm(arm: Planned, grounds: Grounds) -> dict[str, Any]:
    """Train and judge an arm with one seed, going on where an earlier call stopped; returns its figures.

    Tokens, steps, FLOPs and seconds are those of all its stages, `stages` lists them. Raises InputError where its
    folder has other settings, what a training raises, and RunError for what fails on the way.
    """
    folder, conditions = grounds.arm_folder(arm.name), grounds.conditions
    request = request_of(arm, conditions.seed) | {"data": grounds.data}
    with in_name_of(arm.name), begun(folder, request, conditions.runtime):
        done = folder / "result.json"
        found: dict[str, Any] | None = conditions.runtime.on_rank0(
            lambda: read_json(done, *_RESULT) if done.exists() else None
        )
        if found is not None:
            return found
        grown = isinstance(arm.settings.start, GrowthStart)
        found = (_grow if grown else _train)(arm, grounds, folder)
        found = {"seed": conditions.seed, **found}
        conditions.runtime.on_rank0(lambda: write_json(done, found))
        return found


def _train(arm: Planned, grounds: Grounds, folder: Path) -> dict[str, Any]:
    """An arm of one stage, or of two (stacking)."""
    conditions, settings, origin = grounds.conditions, arm.training, grounds.origin(arm)
    stages: list[dict[str, Any]] = []
    if arm.counts_source:
        assert arm.source is not None
        before = read_json(grounds.arm_folder(arm.source) / "result.json", "stages")
        stages += [
            {**stage, "folder": f"../../{arm.source}/{folder.name}/{stage['folder']}"} for stage in before["stages"]
        ]
    elif isinstance(arm.settings.start, StackingStart):
        steps = planned_steps(settings, conditions.train_sequences)
        first, settings = shared_out(settings, arm.settings.start, steps)
        spec = first_stage_wish(arm.depth, layer_count(load_config(origin)))
        stages.append(_stage(arm, grounds, folder, FIRST, origin, spec, first))
        origin = Reference(path=str(folder / FIRST / "model"))
    spec, notes = _wish(arm, grounds, origin)
    stages.append(_stage(arm, grounds, folder, ".", origin, spec, settings) | notes)
    return _summed(stages[-1], stages) | best_figures(folder, stages[-1], conditions)


def shared_out(settings: Training, start: StackingStart, steps: int) -> tuple[Training, Training]:
    """The settings of the two stages, whose steps add up to the arm's. Raises InputError where one would have none."""
    first = int(steps * start.first_stage)
    if first < 1 or first == steps:
        raise InputError("start.first_stage", f"{first} of {steps} steps", "give both stages a step or more")
    early, late = (settings.model_copy(update={"length": Size(part, "steps")}) for part in (first, steps - first))
    return early, late


def _wish(arm: Planned, grounds: Grounds, origin: Reference) -> tuple[Inherit, dict[str, Any]]:
    """What the arm takes of its source, and what of it figures say."""
    measured, blocks = measured_wish(arm.settings, arm.depth), None
    if measured is not None:
        file = grounds.arm_folder(arm.name) / SELECTION
        blocks = choose_once(origin, measured, grounds.conditions, file)["blocks"]
    spec = wish_of(arm.settings, arm.depth, layer_count(load_config(origin)), blocks)
    return spec, {"blocks": None if spec.submodules == "none" else spec.layers}


def _stage(
    arm: Planned, grounds: Grounds, folder: Path, name: str, origin: Reference, spec: Inherit, settings: Training
) -> dict[str, Any]:
    """One training of an arm, in the folder `name` below the arm's; its figures."""
    conditions, place = grounds.conditions, folder / name

    def build() -> "PreTrainedModel":
        return _start(arm, spec, origin, place, conditions)

    label = arm.name if name == "." else f"{arm.name}, {name}"
    wanted = Arm(f"{label}, seed {conditions.seed}", place, build, settings, _teacher(arm, grounds))
    return run_arm(wanted, replace(conditions, training=settings), grounds.judged) | {"folder": name}


def _start(arm: Planned, spec: Inherit, origin: Reference, place: Path, conditions: Conditions) -> "PreTrainedModel":
    """A stage's model before training."""
    if arm.settings.start.kind == "reference":
        return load_model(origin)
    if spec.submodules == "none":
        config = load_config(origin)
        config = target_config(config, resolve(spec, config))
        return build_random(config, conditions.seed, trust_remote_code=origin.trust_remote_code)
    target, plan = derive(origin, spec, seed=conditions.seed)
    notes = describe_plan(plan)
    conditions.runtime.on_rank0(lambda: write_json(place / "inherited.json", notes))
    return target


def _teacher(arm: Planned, grounds: Grounds) -> Teacher | None:
    """Whom the arm learns from; None where it learns from the text alone."""
    return None if arm.training.distillation is None else grounds.teachers[arm.settings.teacher or ""]


def _grow(arm: Planned, grounds: Grounds, folder: Path) -> dict[str, Any]:
    """Rounds until the target matches; all of them are its cost."""
    start, conditions = arm.settings.start, replace(grounds.conditions, training=arm.training)
    assert isinstance(start, GrowthStart)
    total = layer_count(load_config(grounds.reference))
    inherit = Inherit(layers=arm.depth, choose=start.choose)
    inherit, dropped = chosen(grounds.reference, inherit, conditions, folder / SELECTION)
    label = f"{arm.name}, seed {conditions.seed}, round"
    teacher = _teacher(arm, grounds)
    growth = Growth(
        grounds.reference, grounds.judged, total, inherit, start.grow, folder / ROUNDS, dropped, teacher, label
    )  # fmt: skip
    rounds = growth.run(conditions, lambda _: None)
    stages = [{**found, "folder": f"{ROUNDS}/{found['folder']}"} for found in rounds]
    best = stages[rounds.index(best_round(rounds))]
    matched = next((number for number, found in enumerate(rounds, 1) if found["matched"]), None)
    to_match = None if matched is None else sum(found["flops"] for found in rounds[:matched])
    return _summed(best, stages) | {"flops_to_match": to_match} | best_figures(folder, best, conditions)


_COSTS = ("tokens", "steps", "epochs", "flops", "seconds", "wall_seconds", "teacher_flops", "left_over_tokens")
_STAGE_KEYS = ("folder", "layers", "parameters", "tokens", "steps", "flops", "seconds", "val_loss", "matched")


def _summed(last: dict[str, Any], stages: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the stage that is the result, with the costs of all stages."""
    found = {key: value for key, value in last.items() if key not in ("name", "folder")}
    for cost in _COSTS:
        parts = [stage[cost] for stage in stages if cost in stage]
        if parts:
            # stored outputs are computed once for all stages
            found[cost] = max(parts) if cost == "teacher_flops" and last["teacher_outputs"] == "stored" else sum(parts)
    found["tokens_per_second"] = round(found["tokens"] / found["seconds"], 1) if found["seconds"] else None
    found["model"] = f"{last['folder']}/model".removeprefix("./")
    found["flops_to_match"] = found["flops"] if last["matched"] else None
    found["stages"] = [{key: stage[key] for key in _STAGE_KEYS if key in stage} for stage in stages]
    return found
