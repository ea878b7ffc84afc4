"""A comparison as people read it: verdicts, one table, what its marks mean, curves."""

import math
from dataclasses import dataclass
from pathlib import Path

from inheritune.report.curves import Curve, Curves, arm_curve, final_level, reference_curve
from inheritune.report.notation import many, short, with_error
from inheritune.report.page import OPEN, Table
from inheritune.report.run_summary import COLOURS_OF, under_trained
from inheritune.results import Arm, Comparison, JudgedArm, ReferenceSummary

_COLUMNS = (
    "arm", "blocks", "params", "tokens", "FLOPs", "teacher's", "seconds", "val. loss", "± seeds", "gap", "speed-up",
    "published", "FLOPs to match", "best", "verdict",
)  # fmt: skip
_NARROW = ("arm", "blocks", "val. loss", "± seeds", "gap", "speed-up", "published", "verdict")


@dataclass(frozen=True)
class ComparisonFolder:
    """The folder of a comparison; `comparison` is None before an arm has a result."""

    folder: Path
    comparison: Comparison | None

    @classmethod
    def read(cls, folder: Path) -> "ComparisonFolder":
        """Read a folder. Raises DamagedFile where a file is damaged."""
        return cls(folder, Comparison.read_if_there(folder / "comparison.json"))

    @property
    def title(self) -> str:
        """The page's title."""
        return f"Comparison: {self.folder.resolve().name}"

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """The verdict and its colour."""
        if self.comparison is None:
            return [(OPEN, "Not finished: no arm has begun.")]
        best = best_arm(self.comparison)
        colour = OPEN if best is None else COLOURS_OF[best.decision]
        return [(colour, comparison_verdict(self.comparison))]

    def curves(self, prefix: str = "") -> Curves:
        """The curves of all arms that have any, and the reference's final loss on the same sequences. Its own curve
        ends where the last of the arms does, as it may have been trained much longer.
        """
        compared, folder = self.comparison, self.folder
        if compared is None:
            return Curves()
        arms = [Curve(prefix + arm.name, arm_curve(folder, arm.runs)) for arm in compared.judged]
        last = max((arm.points[-1]["tokens"] for arm in arms if arm.points), default=math.inf)
        points = [point for point in reference_curve(folder, compared.reference) if point["tokens"] <= last]
        curves = [Curve(f"{prefix}reference", points, "reference"), *arms]
        levels = final_level(folder / (compared.reference.folder or "."), prefix)
        return Curves([curve for curve in curves if curve.points], levels)


def verdict_of(arm: Arm) -> str:
    """An arm's outcome in a few words."""
    if not isinstance(arm, JudgedArm):
        return arm.state
    words = [str(arm.decision)]
    if arm.over_random is not None:
        words.append(f"{_side(arm)} {arm.random}")
    if arm.failures:
        words.append(f"{len(arm.failures)} seeds failed")
    return ", ".join(words)


def _side(arm: JudgedArm) -> str:
    """Whether an arm is better or worse than its random arm beyond both errors, of the text and of the seeds."""
    over, low, high = arm.over_random or 0.0, *(arm.over_random_interval or (-math.inf, math.inf))
    if low <= 0 <= high or abs(over) <= (arm.over_random_margin_seeds or 0):
        return "not told apart from"
    return "better than" if over < 0 else "worse than"


def comparison_table(compared: Comparison, narrow: bool = False) -> Table:
    """The reference, then the arms, an unequal budget marked with *. `narrow` is without what a terminal of 80 columns
    has no room for, and has errors on a second line.
    """
    published = compared.published.values if compared.published else {}
    rows = {"reference": _row("reference", compared.reference)}
    rows |= {arm.name: _arm_row(arm, narrow) for arm in compared.arms}
    for name, value in published.items():
        rows.setdefault(name, {"arm": name})["published"] = f"{value:g}"
    if not narrow:
        growth = any(arm.start == "growth" for arm in compared.arms)
        return Table.of([name for name in _COLUMNS if growth or name != "FLOPs to match"], list(rows.values()))
    for row in rows.values():
        row |= {name: row[name].replace(" ", "\n") for name in ("val. loss", "gap", "speed-up") if name in row}
    return Table.of(_NARROW, list(rows.values()))


def _row(name: str, model: ReferenceSummary | JudgedArm) -> dict[str, str]:
    """The cells that the reference and the arms have."""
    return {
        "arm": name,
        "blocks": str(model.layers),
        "params": short(model.parameters),
        "tokens": "" if model.tokens is None else short(round(model.tokens)),
        "FLOPs": "" if model.flops is None else f"{model.flops:.2g}",
        "seconds": "" if model.seconds is None else f"{model.seconds:,.0f}",
        "val. loss": with_error(model.val_loss, model.val_loss_se),
    }


def _arm_row(arm: Arm, narrow: bool) -> dict[str, str]:
    """`narrow`: the mark of its budget is at its name, and the verdict has only what no other column has."""
    verdict = {"verdict": arm.verdict.partition(",")[0] if narrow else arm.verdict}
    if not isinstance(arm, JudgedArm):
        return {"arm": arm.name} | verdict
    row = _row(arm.name, arm)
    row["arm" if narrow else "tokens"] += "" if arm.equal else " *"
    return row | verdict | {
        "teacher's": "" if arm.all_teacher_flops is None else f"{arm.all_teacher_flops:.2g}",
        "± seeds": "" if arm.val_loss_margin_seeds is None else f"{arm.val_loss_margin_seeds:.4f}",
        "gap": with_error(arm.gap, arm.gap_se, sign=True),
        "speed-up": speed_up_cell(arm),
        "best": with_error(arm.best_val_loss, arm.best_val_loss_se),
        "FLOPs to match": "not reached" if arm.flops_to_match is None else f"{arm.flops_to_match:.2g}",
    }  # fmt: skip


def speed_up_cell(arm: JudgedArm) -> str:
    """The speed-up and its range; nothing for an arm that ends behind its random arm."""
    if arm.speed_up_range is None:
        return ""
    low, high = arm.speed_up_range
    if arm.speed_up is None:
        return "from the start"
    middle = f"{arm.speed_up:.3g}x"
    if low is not None and high is not None and f"{low:.2g}" == f"{high:.2g}":
        return middle
    if low is None or high is None:
        return f"{middle} (at most {high:.2g})" if high is not None else f"{middle} (at least {low or 1:.2g})"
    return f"{middle} ({low:.2g}-{high:.2g})"


def notes_on(compared: Comparison) -> list[str]:
    """What the table's marks mean, in sentences."""
    judged, seeds = compared.judged, len(compared.seeds)
    notes = [
        f"Equal budget: {compared.budget_tokens:,} training tokens, all stages of an arm counted."
        f" Validation loss in nats a token on {compared.validation_sequences} sequences of"
        f" {many(compared.validation_documents, 'document')}; ± is one standard error, for which documents (long"
        f" stretches of few documents) are taken as independent{_of_seeds(seeds)}. Matched: the gap's upper bound"
        f" (one-sided, 95 %) is at most {compared.tolerance:g}; undecided: only the gap is."
    ]
    notes += [
        f"* {arm.name}: another budget, {short(round(arm.tokens))} tokens: {arm.allow_unequal}."
        for arm in judged
        if not arm.equal
    ]
    spent = [(arm.name, arm.flops_to_match) for arm in judged if arm.start == "growth"]
    if spent:
        words = ", ".join(f"{name} {'not reached' if flops is None else f'{flops:.3g}'}" for name, flops in spent)
        notes.append(f"FLOPs to match the reference, all rounds until then: {words}.")
    if any(arm.random for arm in judged):
        notes.append(
            "Speed-up: tokens of the random model of the same size over the tokens after which the arm has its final"
            f" validation loss, read off the curves ({compared.curve_sequences} sequences); in brackets what the noise"
            " of both curves allows. Empty for an arm that ends behind."
        )
    notes += [
        f"{arm.name}, seed {failure.seed}, failed: {failure.error}" for arm in compared.arms for failure in arm.failures
    ]
    if compared.published:
        notes.append(f"Published: {compared.published.figure}, {compared.published.source}.")
    return notes


def _of_seeds(seeds: int) -> str:
    return f"; ± seeds is half the 95 % interval over {seeds} seeds (Student's t)" if seeds > 1 else ""


def best_arm(compared: Comparison) -> JudgedArm | None:
    """The arm with the lowest validation loss; None where none has a result."""
    return min(compared.judged, key=lambda arm: arm.val_loss, default=None)


def comparison_verdict(compared: Comparison) -> str:
    """The outcome in a sentence."""
    best, count, done = best_arm(compared), len(compared.arms), len(compared.judged)
    if best is None:
        return f"Not finished: no arm of {count} has a result yet."
    gap = with_error(best.gap, best.gap_se, sign=True)
    gained = next((arm for arm in compared.judged if arm.start == "reference" and (arm.gap_upper or 0) < 0), None)
    before = "" if gained is None else under_trained(gained)
    text = (
        f"{before}Lowest of {done} arms: {best.name}, with validation loss {best.val_loss:.4f}, the reference"
        f" {compared.reference.val_loss:.4f} (gap {gap}); {best.verdict}."
    )
    return text if compared.finished else f"Not finished, {done} of {count} arms have a result. So far: {text}"
