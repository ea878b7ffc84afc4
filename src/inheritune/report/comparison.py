"""A comparison as people read it: one table, one set of curves; a page and the same in Markdown. Reads files only."""

import math
from pathlib import Path
from typing import Any

from inheritune.errors import InputError
from inheritune.report.arms import arm_curve, reference_curve
from inheritune.report.curves import Curve, Curves, by_axis
from inheritune.report.markup import recipe_for_readers
from inheritune.report.notation import short, with_error
from inheritune.report.sections import BAD, GOOD, OPEN, Page, Section, write_folder
from inheritune.runlog import read_json, read_mapping

_COLUMNS = (
    "arm", "blocks", "params", "tokens", "FLOPs", "teacher's", "seconds", "val. loss", "± seeds", "gap", "speed-up",
    "published", "FLOPs to match", "best", "verdict",
)  # fmt: skip
_NARROW = ("arm", "blocks", "val. loss", "± seeds", "gap", "speed-up", "verdict", "published")


def verdict_of(arm: dict[str, Any]) -> str:
    """An arm's outcome in a few words."""
    if "val_loss" not in arm:
        return str(arm["state"])
    words = ["matched" if arm["matched"] else "behind"]
    if arm.get("over_random") is not None:
        side = "better" if arm["over_random"] < 0 else "worse"
        error = arm["over_random_se"]
        clear = f" ({abs(arm['over_random']) / error:.0f} se)" if error else ""
        words.append(f"{side} than {arm['random']}{clear}")
    if arm["failures"]:
        words.append(f"{len(arm['failures'])} seeds failed")
    return ", ".join(words)


def comparison_table(found: dict[str, Any], narrow: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the reference, then the arms, an unequal budget marked with *. Columns that nothing stands in
    are left away; `narrow` leaves away what a terminal of 80 columns has no room for, and puts errors on a second line.
    """
    published = found["published"] or {"values": {}}
    rows = [_reference_row(found["reference"]), *(_arm_row(arm) for arm in found["arms"])]
    names = ["reference", *(arm["name"] for arm in found["arms"])]
    for row, name in zip(rows, names, strict=True):
        row["published"] = f"{published['values'][name]:g}" if name in published["values"] else ""
    further = [name for name in published["values"] if name not in names]
    rows += [{"arm": name, "published": f"{published['values'][name]:g}"} for name in further]
    if not any(arm["start"] == "growth" for arm in found["arms"]):
        for row in rows:
            row.pop("FLOPs to match", None)
    header = [name for name in _COLUMNS if any(row.get(name) for row in rows) and (not narrow or name in _NARROW)]
    if narrow:
        for row, arm in zip(rows, [found["reference"], *found["arms"]], strict=False):
            _shorten(row, arm)
    return header, [[row.get(name, "") for name in header] for row in rows]


def _shorten(row: dict[str, str], arm: dict[str, Any]) -> None:
    """A row for a narrow table: the mark of its budget at its name, and of the verdict what no other column says."""
    row["verdict"] = row.get("verdict", "").partition(",")[0]
    if not arm.get("equal", True):
        row["arm"] += " *"
    for name in ("val. loss", "gap", "speed-up"):
        row[name] = row.get(name, "").replace(" ", "\n")


def _reference_row(reference: dict[str, Any]) -> dict[str, str]:
    return {
        "arm": "reference",
        "blocks": str(reference["layers"]),
        "params": short(reference["parameters"]),
        "tokens": short(reference["tokens"]) if "tokens" in reference else "",
        "FLOPs": f"{reference['flops']:.2g}" if "flops" in reference else "",
        "seconds": f"{reference['seconds']:,.0f}" if "seconds" in reference else "",
        "val. loss": with_error(reference["val_loss"], reference["val_loss_se"]),
    }


def _arm_row(arm: dict[str, Any]) -> dict[str, str]:
    if "val_loss" not in arm:
        return {"arm": arm["name"], "verdict": arm["verdict"]}
    to_match = arm["flops_to_match"]
    return {
        "arm": arm["name"],
        "blocks": str(arm["layers"]),
        "params": short(arm["parameters"]),
        "tokens": short(round(arm["tokens"])) + ("" if arm["equal"] else " *"),
        "FLOPs": f"{arm['flops']:.2g}",
        "teacher's": f"{arm['teacher_flops']:.2g}" if "teacher_flops" in arm else "",
        "seconds": f"{arm['seconds']:,.0f}",
        "val. loss": with_error(arm["val_loss"], arm["val_loss_se"]),
        "± seeds": "" if arm["val_loss_se_seeds"] is None else f"{arm['val_loss_se_seeds']:.4f}",
        "gap": with_error(arm["gap"], arm["gap_se"], sign=True),
        "speed-up": _speed_up(arm),
        "best": with_error(arm["best_val_loss"], arm["best_val_loss_se"]),
        "FLOPs to match": "not reached" if to_match is None else f"{to_match:.2g}",
        "verdict": arm["verdict"],
    }


def _speed_up(arm: dict[str, Any]) -> str:
    if arm.get("random") is None:
        return ""
    if arm["steps_to_random"] is None:
        return "not reached"
    return "at once" if arm["speed_up"] is None else f"{arm['speed_up']:.2f}x"


def notes_on(found: dict[str, Any]) -> list[str]:
    """What the table's marks mean, in sentences."""
    notes = [
        f"Equal budget: {found['budget_tokens']:,} training tokens, all stages of an arm counted."
        f" Validation loss in nats a token on {found['validation_sequences']} sequences; ± is one standard error over"
        f" them{', ± seeds one over ' + str(len(found['seeds'])) + ' seeds' if len(found['seeds']) > 1 else ''}."
    ]
    notes += [
        f"* {arm['name']}: another budget, {short(round(arm['tokens']))} tokens: {arm['allow_unequal']}."
        for arm in found["arms"]
        if "val_loss" in arm and not arm["equal"]
    ]
    grown = [arm for arm in found["arms"] if arm["start"] == "growth" and "val_loss" in arm]
    if grown:
        spent = [(arm["name"], arm["flops_to_match"]) for arm in grown]
        words = ", ".join(f"{name} {'not reached' if flops is None else f'{flops:.3g}'}" for name, flops in spent)
        notes.append(f"FLOPs to match the reference, all rounds until then: {words}.")
    if any(arm.get("random") for arm in found["arms"]):
        notes.append(
            "Speed-up: tokens of the random model of the same size over the tokens after which the arm has its final"
            f" validation loss, read off the curves ({found['curve_sequences']} sequences)."
        )
    notes += [
        f"{arm['name']}, seed {failure['seed']}, failed: {failure['error']}"
        for arm in found["arms"]
        for failure in arm["failures"]
    ]
    if found["published"]:
        notes.append(f"Published: {found['published']['figure']}, {found['published']['source']}.")
    return notes


def best_arm(found: dict[str, Any]) -> dict[str, Any] | None:
    """The arm with the lowest validation loss; None where none is finished."""
    done = [arm for arm in found["arms"] if "val_loss" in arm]
    return min(done, key=lambda arm: float(arm["val_loss"]), default=None)


def comparison_verdict(found: dict[str, Any]) -> str:
    """The outcome in a sentence."""
    arms, best = found["arms"], best_arm(found)
    done = sum("val_loss" in arm for arm in arms)
    if best is None:
        return f"Not finished: no arm of {len(arms)} has a result yet." if arms else "Not finished: no arm has begun."
    gap = with_error(best["gap"], best["gap_se"], sign=True)
    text = (
        f"Lowest of {done} arms: {best['name']}, with validation loss {best['val_loss']:.4f}, the reference"
        f" {found['reference']['val_loss']:.4f} (gap {gap}); {best['verdict']}."
    )
    return text if found["finished"] else f"Not finished, {done} of {len(arms)} arms have a result. So far: {text}"


_NEEDED = ("finished", "reference", "arms", "published", "seeds")
_REMEDY = "run the comparison again, which writes it anew"


def read_comparison(folder: Path) -> dict[str, Any]:
    """comparison.json; of a comparison that has no arm's result yet, the same without figures.

    Raises InputError where `folder` is no comparison's, DamagedFile where a file is damaged.
    """
    if (folder / "comparison.json").is_file():
        return read_mapping(folder / "comparison.json", *_NEEDED, remedy=_REMEDY)
    if not (folder / "suite.yaml").is_file():
        raise InputError(str(folder), "holds neither comparison.json nor suite.yaml", "name the folder of a comparison")
    return {"finished": False, "reference": None, "arms": [], "published": None, "seeds": []}


def write_comparison(folder: Path, found: dict[str, Any] | None = None, out: Path | None = None) -> Path:
    """Write `folder`/report, or `out`, for a comparison, finished or not; returns the page's path.

    `found` is given where comparison.json is just written. Raises as `read_comparison` does.
    """
    found = read_comparison(folder) if found is None else found
    return write_folder(comparison_page(folder, found), folder / "report", out)


def comparison_page(folder: Path, found: dict[str, Any]) -> Page:
    """What there is of a comparison, the verdict first."""
    suite = folder / "suite.yaml"
    text = recipe_for_readers(suite.read_text(encoding="utf-8")) if suite.is_file() else ""
    folded = [("The suite, with every default", text)] if text else []
    sections = [arms_section(found), comparison_curves(folder, found)]
    sections.append(Section("How to reproduce it", code=[("", "inheritune compare suite.yaml")], folded=folded))
    title = f"Comparison: {folder.resolve().name}"
    return Page(title, [(comparison_colour(found), comparison_verdict(found))], sections)


def comparison_colour(found: dict[str, Any]) -> str:
    """The mark of a comparison's verdict."""
    best = best_arm(found)
    return OPEN if best is None else GOOD if best["matched"] else BAD


def arms_section(found: dict[str, Any]) -> Section:
    """The table of all arms and what it means."""
    if found["reference"] is None:
        return Section("Arms")
    return Section("Arms", tables=[("", *comparison_table(found))], notes=notes_on(found))


def comparison_curves(folder: Path, found: dict[str, Any]) -> Section:
    """Validation losses on the way, means over the seeds."""
    if found["reference"] is None:
        return Section("Validation loss during training", missing=["No validation loss was taken yet."])
    note = (
        f"Taken on the first {found['curve_sequences']} validation sequences, means over the seeds, all stages of an"
        f" arm counted; the table judges on all {found['validation_sequences']}."
    )
    return Section("Validation loss during training", by_axis=by_axis(curves_of(folder, found)), notes=[note])


def curves_of(folder: Path, found: dict[str, Any], label: str = "") -> Curves:
    """The curves of all arms that have any, and the reference's final loss on the same sequences. Its own curve ends
    where the last of the arms does, as it may have been trained much longer.
    """
    if found["reference"] is None:
        return Curves()
    prefix = f"{label}: " if label else ""
    arms = [Curve(prefix + arm["name"], arm_curve(folder, arm)) for arm in found["arms"] if "runs" in arm]
    last = max((arm.points[-1]["tokens"] for arm in arms if arm.points), default=math.inf)
    points = [point for point in reference_curve(folder, found["reference"]) if point["tokens"] <= last]
    curves = [Curve(f"{prefix}reference", points, "reference"), *arms]
    level = _level(folder, found)
    levels = {} if level is None else {f"{prefix}reference, final": level}
    return Curves([curve for curve in curves if curve.points], levels)


def _level(folder: Path, found: dict[str, Any]) -> float | None:
    """The reference's final loss on the sequences that the curves are taken on; None where it has been taken away."""
    place = folder / found["reference"]["folder"] / "evaluation.json"
    if not place.is_file():
        return None
    losses: list[float] = read_json(place, "sequence_losses")["sequence_losses"][: found["curve_sequences"]]
    return math.fsum(losses) / len(losses)
