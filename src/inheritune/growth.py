"""Rounds: inherit, train, judge; deeper while the target does not match (arXiv 2404.08634 v4, algorithm 1)."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inheritune import runtime as rt
from inheritune.analysis import choose_blocks, sequences_wanted
from inheritune.arch import in_dtype, layer_count, load_config, load_model, load_tokenizer
from inheritune.arm import Arm, Conditions, load_trained, run_arm
from inheritune.data import Prepared, Sequences, check_tokenizer, check_vocabulary, find_data, open_data, sample
from inheritune.distillation import Teacher
from inheritune.errors import InputError
from inheritune.evaluation import Evaluation
from inheritune.inheritance import count_layers, derive, describe_plan, graft, is_grown, select_blocks, settle
from inheritune.recipe import MEASURED, Evaluate, Grow, Inherit, Reference, Training, check, model_at
from inheritune.report import spans
from inheritune.request import asked, begun, check_request, identity
from inheritune.runlog import Terminal, check_trackers, read_mapping, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CALIBRATION_LENGTH = 256  # tokens a sequence: enough for attention to work as it does, and short enough for many


def depths(inherit: Inherit, grow: Grow | None, total: int) -> list[int]:
    """The depths that the rounds may reach, in their order, for a reference of `total` blocks.

    Raises InputError for more blocks than the reference has, or a deepest round above the first.
    """
    first = count_layers(inherit.layers, total, most=2 * total if inherit.choose == "stacked" else total)
    if grow is None:
        return [first]
    deepest = grow.max_layers if grow.max_layers is not None else max(first, total - 1)
    if deepest > total:
        raise InputError("grow.max_layers", f"{deepest} blocks, the reference has {total}", f"give at most {total}")
    if deepest < first:
        raise InputError(
            "grow.max_layers", f"{deepest} is below the first round's {first} blocks", f"give {first} or more"
        )
    found = list(range(first, deepest, grow.by))
    return [*found, deepest]


def goes_on(rounds: Sequence[dict[str, Any]], grow: Grow | None, planned: Sequence[int]) -> bool:
    """Whether another round follows, from the figures of those so far."""
    if not rounds:
        return True
    if grow is None or len(rounds) >= len(planned):
        return False
    return grow.until == "max_layers" or not rounds[-1]["matched"]


def best_round(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of a run: the shallowest round that matched, else the one with the lowest validation loss."""
    matched = [found for found in rounds if found["matched"]]
    if matched:
        return min(matched, key=lambda found: int(found["layers"]))
    return min(rounds, key=lambda found: float(found["val_loss"]))


def kept_blocks(inherit: Inherit, depth: int, total: int, dropped: Sequence[int] | None = None) -> list[int]:
    """The blocks that a round of this depth inherits; `dropped` is the order of a measured choice."""
    layers = inherit.layers if isinstance(inherit.layers, list) else depth
    return select_blocks(layers, inherit.choose, total, dropped=dropped)


def is_measured(inherit: Inherit) -> bool:
    """Whether the blocks are chosen by looking at the model at work."""
    return inherit.choose in MEASURED and not isinstance(inherit.layers, list)


def expected_blocks(inherit: Inherit, depth: int, total: int) -> list[int]:
    """`kept_blocks` before anything is measured: of a measured choice the first blocks stand in, as most are alike."""
    return list(range(depth)) if is_measured(inherit) else kept_blocks(inherit, depth, total)


def with_blocks(inherit: Inherit, kept: list[int]) -> Inherit:
    """`inherit` with the blocks decided."""
    return inherit.model_copy(update={"layers": kept, "choose": "first"})


def check_rounds(inherit: Inherit, grow: Grow | None, total: int) -> list[list[int]]:
    """The blocks of every round that there may be; for a measured choice, not made yet, the first ones stand in.

    Raises InputError as `depths` does, and where a round cannot go on from the one before it.
    """
    found = [expected_blocks(inherit, depth, total) for depth in depths(inherit, grow, total)]
    if grow is None or grow.start == "reference":
        return found
    for before, after in pairwise(found):
        if not is_grown(before, after):
            raise InputError(
                "grow.start",
                f"a round of blocks {after} cannot go on from one of {before}, whose blocks are not all in it",
                "set inherit.choose to first, last or ends, or grow.start to reference",
            )
    return found


@dataclass(frozen=True)
class Growth:
    """What the rounds need: the reference's weights, its losses, where to put the rounds and what to call them.

    `dropped` is the order in which a measured choice drops blocks; `teacher` is given where the rounds learn from one.
    """

    source: "Reference | PreTrainedModel"
    reference: Evaluation
    total: int
    inherit: Inherit
    grow: Grow | None
    folder: Path
    dropped: Sequence[int] | None = None
    teacher: Teacher | None = None
    label: str = "round"

    def run(self, conditions: Conditions, after_round: Callable[[list[dict[str, Any]]], Any]) -> list[dict[str, Any]]:
        """Rounds until matched or as deep as allowed; finished rounds are read back, not trained again."""
        planned = depths(self.inherit, self.grow, self.total)
        rounds: list[dict[str, Any]] = []
        while goes_on(rounds, self.grow, planned):
            depth = planned[len(rounds)]
            name = f"{len(rounds) + 1}-{depth}layers"
            folder = self.folder / name
            kept = kept_blocks(self.inherit, depth, self.total, self.dropped)
            before = rounds[-1] if rounds and self.grow and self.grow.start == "trained" else None
            build = partial(self._start, kept, before, folder, conditions)
            arm = Arm(f"{self.label} {name}", folder, build, teacher=self.teacher)
            found = run_arm(arm, conditions, self.reference)
            found |= {"blocks": kept, "folder": name} | spent_before(before)
            rounds.append(found)
            conditions.terminal.say(verdict_line(found))
            after_round(rounds)
        return rounds

    def _start(
        self, kept: list[int], before: dict[str, Any] | None, folder: Path, conditions: Conditions
    ) -> "PreTrainedModel":
        """The round's model before training: from the reference, and (`before`) the round before put into it."""
        target, plan = derive(self.source, with_blocks(self.inherit, kept), seed=conditions.seed)
        notes = describe_plan(plan)
        if before is not None:
            assert self.grow is not None
            place = str(self.folder / before["folder"] / "model")
            trained = load_model(Reference(path=place, trust_remote_code=conditions.trust_remote_code))
            graft(in_dtype(target, "float32"), trained, kept, before["blocks"], silent=self.grow.silent)
            notes |= {"from_round": before["folder"], "blocks_from_round": before["blocks"], "silent": self.grow.silent}
        conditions.runtime.first_does(lambda: write_json(folder / "inherited.json", notes))
        return target


def choose_once(
    source: "Reference | PreTrainedModel", inherit: Inherit, conditions: Conditions, file: Path
) -> dict[str, Any]:
    """A measured choice, made by the first process and kept in `file`: see `analysis.choose_blocks`.

    It sees `inherit.calibration` of the training tokens, spread evenly over them; no validation document is among them.
    Each drop is saved beside `file` until the choice is made, so that an interrupted one resumes.
    """
    drops = file.with_name(f"{file.stem}-drops.json")

    def choose() -> dict[str, Any]:
        if file.exists():
            drops.unlink(missing_ok=True)
            return read_mapping(file, "blocks", "dropped", "reason")
        runtime = conditions.runtime
        model = load_model(source) if isinstance(source, Reference) else copy.deepcopy(source)
        held = in_dtype(model, "float32").eval().to(runtime.device)
        row = conditions.train_sequences
        length = min(_CALIBRATION_LENGTH, row.sequence_length)
        packing = replace(row.packing, documents=False)
        pieces = Sequences(row.tokens, length, "inherit.calibration", packing=packing)
        count = sequences_wanted(inherit, length, layer_count(model.config))
        rows = sample(pieces, count, "inherit.calibration", or_fewer=True)
        found = choose_blocks(
            held, rows, inherit, precision=runtime.quick_precision(), say=conditions.terminal.say,
            trust_remote_code=conditions.trust_remote_code, progress=drops,
        )  # fmt: skip
        write_json(file, found)
        drops.unlink(missing_ok=True)
        return found

    found: dict[str, Any] = conditions.runtime.first_does(choose)
    conditions.terminal.say(f"chose blocks {spans(found['blocks'])}: {found['reason']}")
    return found


def chosen(
    source: "Reference | PreTrainedModel", inherit: Inherit, conditions: Conditions, file: Path
) -> tuple[Inherit, list[int] | None]:
    """`inherit` with a number of blocks in place of a budget, and the order of a measured choice (else None)."""
    if not is_measured(inherit):
        config = load_config(source) if isinstance(source, Reference) else source.config
        return settle(config, inherit, conditions.trust_remote_code), None
    found = choose_once(source, inherit, conditions, file)
    decided = inherit.model_copy(update={"layers": len(found["blocks"])})
    return decided, [one["block"] for one in found["dropped"]]


def spent_before(before: dict[str, Any] | None) -> dict[str, Any]:
    """What the rounds have cost that a round goes on from; nothing where it starts from the reference."""
    if before is None:
        return {}
    spent = ["tokens", "steps", "flops"]
    if before.get("teacher_outputs") == "online":  # stored ones are computed once for all rounds
        spent.append("teacher_flops")
    return {f"{what}_before": before[what] + before.get(f"{what}_before", 0) for what in spent}


def verdict_line(found: dict[str, Any]) -> str:
    """A round's outcome in words."""
    error = "" if found["gap_se"] is None else f" ± {found['gap_se']:.4f}"
    verdict = "matched the reference" if found["matched"] else "did not match the reference"
    return f"{found['name']}: validation loss {found['val_loss']:.4f}, gap {found['gap']:+.4f}{error}: {verdict}"


def grow(
    reference: "PreTrainedModel | str | Path", data: "Prepared | str | Path", out: str | Path, *,
    train: Training | dict[str, Any], inherit: Inherit | dict[str, Any] | None = None,
    rounds: Grow | dict[str, Any] | None = None, evaluate: Evaluate | None = None, seed: int = 1, device: str = "auto",
    parallel: str = "auto", tokenizer: "PreTrainedTokenizerBase | None" = None, terminal: Terminal | None = None,
    track: str | Sequence[str] = (), prefix: str = "auto",
) -> "tuple[PreTrainedModel, list[dict[str, Any]]]":  # fmt: skip
    """Rounds of inherit, train and judge over prepared data, in the folder `out`; goes on where a call stopped.

    `train`, `inherit` and `rounds` are the recipe's `train`, `inherit` and `grow`; with `train.distillation` the
    reference is the rounds' teacher. `track` and `prefix` are as its `track` and
    `data.prefix`. Returns the model of the shallowest round that matched the reference (of the best round, where none
    did) and the figures of all rounds. Raises InputError when reference, data and settings do not fit, a tracker is not
    installed, or `out` holds something else or is worked in by another process.
    """
    out = Path(out)
    terminal = terminal or Terminal(quiet=True)
    training = train if isinstance(train, Training) else check(Training, train, "train")
    start = inherit if isinstance(inherit, Inherit) else check(Inherit, inherit or {}, "inherit")
    further = rounds if isinstance(rounds, Grow) else check(Grow, rounds or {}, "rounds")
    names = (track,) if isinstance(track, str) else tuple(track)
    check_trackers(names)
    find_data(data)
    request = {"reference": identity(reference), "seed": seed} | asked(training)
    request |= {"inherit": start.model_dump(mode="json"), "rounds": further.model_dump(mode="json")}
    evaluate = evaluate or Evaluate()
    request["tolerance"] = evaluate.tolerance  # which says whether a round has matched
    runtime = rt.start(device)
    runtime.first_does(lambda: check_request(out, request))  # in `begun` again; before what takes long
    if isinstance(reference, str | Path):
        origin = model_at(reference)
        tokenizer = tokenizer or load_tokenizer(origin)
        reference = load_model(origin)
    prepared = open_data(data, runtime, reference.config.vocab_size, tokenizer)
    request["data"] = prepared.checksums
    tokenizer = tokenizer or load_tokenizer(Reference(path=str(prepared.tokenizer_folder)))
    check_tokenizer(prepared, tokenizer, "tokenizer")
    check_vocabulary(prepared, reference.config.vocab_size, "reference")
    model, total = reference, layer_count(reference.config)
    planned = check_rounds(settle(reference.config, start), further, total)
    teacher = None
    if training.distillation is not None:
        teacher = Teacher(model, out / "teacher", trainings=len(planned))
    conditions = Conditions.of(training, evaluate, seed, runtime, terminal, tokenizer, prepared, parallel, prefix)
    request["prefix"] = list(conditions.packing.prefix)
    conditions = replace(conditions, track=names, title=out.resolve().name)
    with begun(out, request, runtime):
        start, dropped = chosen(model, start, conditions, out / "selection.json")
        growth = Growth(model, conditions.judge(model), total, start, further, out, dropped, teacher)
        found = growth.run(conditions, lambda _: None)
    best = best_round(found)
    return load_trained(out / best["folder"]), found
