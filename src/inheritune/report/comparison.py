"""A comparison as people read it: one table, one set of curves; a page and the same in Markdown. Reads files only."""

import math
from pathlib import Path
from typing import Any

from inheritune.report.arms import AXES, arm_curve, reference_curve
from inheritune.report.curves import draw_curves
from inheritune.report.markup import fill_template, markdown_table, markdown_text
from inheritune.report.notation import short, with_error
from inheritune.runlog import new_folder, read_json

_LABELS = {"steps": "optimizer steps, all stages", "tokens": "tokens trained on, all stages", "flops": "training FLOPs"}
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
    header = [name for name in rows[1] if any(row.get(name) for row in rows) and (not narrow or name in _NARROW)]
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
        "best": with_error(arm["best_val_loss"], arm["best_val_loss_se"]),
        "gap": with_error(arm["gap"], arm["gap_se"], sign=True),
        "speed-up": _speed_up(arm),
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


def write_comparison(folder: Path, found: dict[str, Any]) -> Path:
    """Write `folder`/report from comparison.json and metrics; returns the page's path."""
    header, rows = comparison_table(found)
    curves = _curves(folder, found)
    level = _level(folder, found)
    pictures = {
        axis: draw_curves(curves, level, axis, _LABELS[axis], f"loss-by-{axis}", _spent(curves, axis)) for axis in AXES
    }
    facts: dict[str, Any] = {
        "title": f"Comparison: {folder.resolve().name}",
        "found": found,
        "header": header,
        "rows": rows,
        "notes": notes_on(found),
        "figures": [(axis, pictures[axis].svg) for axis in AXES],
        "suite": (folder / "suite.yaml").read_text(encoding="utf-8"),
    }
    place = folder / "report"
    with new_folder(place) as partial:
        (partial / "index.html").write_text(fill_template("comparison.html", facts), encoding="utf-8")
        for picture in pictures.values():
            (partial / f"{picture.name}.png").write_bytes(picture.png)
        (partial / "report.md").write_text(_markdown(facts), encoding="utf-8")
    return place / "index.html"


def _curves(folder: Path, found: dict[str, Any]) -> list[dict[str, Any]]:
    curves: list[dict[str, Any]] = [{"name": "reference", "points": reference_curve(folder, found["reference"])}]
    curves += [{"name": arm["name"], "points": arm_curve(folder, arm)} for arm in found["arms"] if "runs" in arm]
    return [
        {"name": curve["name"], **{key: [point[key] for point in curve["points"]] for key in (*AXES, "val_loss")}}
        for curve in curves
        if curve["points"]
    ]


def _spent(curves: list[dict[str, Any]], axis: str) -> float | None:
    """What the arm that spends most spends; a reference may have been trained much longer, and its curve goes on."""
    return max((curve[axis][-1] for curve in curves if curve["name"] != "reference"), default=None)


def _level(folder: Path, found: dict[str, Any]) -> float:
    """The reference's final loss on the sequences that the curves are taken on."""
    place = folder / found["reference"]["folder"] / "evaluation.json"
    losses: list[float] = read_json(place)["sequence_losses"][: found["curve_sequences"]]
    return math.fsum(losses) / len(losses)


def _markdown(facts: dict[str, Any]) -> str:
    rows = [[markdown_text(cell) for cell in row] for row in facts["rows"]]
    lines = [f"# {facts['title']}", "", *markdown_table(facts["header"], rows), ""]
    lines += [line for note in facts["notes"] for line in (markdown_text(note), "")]
    lines += [f"![validation loss by {axis}](loss-by-{axis}.png)" for axis in AXES]
    return "\n".join(lines) + "\n"
