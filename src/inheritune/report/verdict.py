"""The verdict in one sentence, and the table. Pure functions of summary.json."""

from typing import Any

from inheritune.report.notation import many, short, with_error


def verdict(summary: dict[str, Any]) -> str:
    """What the run found: matched or not, at which depth, and how far ahead of the random control."""
    reference, result = summary["reference"], summary["result"]
    if result is None:
        return _begun(summary)
    gap = with_error(result["gap"], result["gap_se"], sign=True)
    parts = f"{result['layers']} of the reference's {reference['layers']} blocks"
    share = result["parameters"] / reference["parameters"]
    if result["matched"]:
        tolerance = f" (tolerance {summary['tolerance']:g})" if summary["tolerance"] else ""
        text = (
            f"Matched{tolerance}: with {parts} and {share:.0%} of its parameters the target reaches validation loss"
            f" {result['val_loss']:.4f}, the reference {reference['val_loss']:.4f} (gap {gap})."
        )
    else:
        deepest = max(found["layers"] for found in summary["rounds"])
        text = (
            f"Not matched up to {deepest} blocks: the best target, with {parts} and {share:.0%} of its parameters,"
            f" reaches validation loss {result['val_loss']:.4f}, the reference {reference['val_loss']:.4f} (gap {gap})."
        )
    if not summary["finished"]:
        text = "Not finished. So far: " + text[0].lower() + text[1:]
    for control in summary["controls"]:
        if "over_result" in control:  # of a control without, the run has not been summed up since
            text += " " + _control_sentence(control)
    return text


def _begun(summary: dict[str, Any]) -> str:
    """Of a run that has no result yet."""
    reference, rounds = summary["reference"], summary["rounds"]
    if reference is None:
        return "Not finished: the reference is not judged yet."
    done = many(len(rounds), "round") if rounds else "no round"
    return (
        f"Not finished: the reference, {many(reference['layers'], 'block')}, has validation loss"
        f" {reference['val_loss']:.4f}; {done} judged so far."
    )


def _control_sentence(control: dict[str, Any]) -> str:
    over = with_error(control["over_result"], control["over_result_se"], sign=True)
    if control["name"] == "random":
        word = "worse" if control["over_result"] > 0 else "better"
        return (
            f"The same small model from random weights, on the same tokens, is {word}: {control['val_loss']:.4f},"
            f" {over} against the inherited one{_errors(control)}."
        )
    gap = with_error(control["gap"], control["gap_se"], sign=True)
    return f"The reference itself, trained on the same tokens, would reach {control['val_loss']:.4f} (gap {gap})."


def _errors(control: dict[str, Any]) -> str:
    if not control["over_result_se"]:
        return ""
    return f" ({abs(control['over_result']) / control['over_result_se']:.0f} standard errors)"


_COLUMNS = (
    "model", "blocks", "params", "tokens", "FLOPs", "teacher FLOPs", "val. loss", "gap", "matched", "tokens/s",
)  # fmt: skip


def table(summary: dict[str, Any], narrow: bool = False) -> tuple[list[str], list[list[str]]]:
    """Header and rows: reference, rounds, controls. Tokens and FLOPs are those of a model's whole training, earlier
    rounds that it went on from included. `narrow` leaves away what a terminal has no room for.
    """
    entries = [("reference", summary["reference"])] if summary["reference"] else []
    entries += [(f"round {number}", found) for number, found in enumerate(summary["rounds"], 1)]
    entries += [(f"control: {found['name']}", found) for found in summary["controls"]]
    rows = [_row(name, found) for name, found in entries]
    if narrow:
        for row, (_, found) in zip(rows, entries, strict=True):
            row["val. loss"] = with_error(found["val_loss"], None)
    left_out = {"FLOPs", "tokens/s", "teacher FLOPs"} if narrow else set()
    if not any("teacher_flops" in found for _, found in entries):
        left_out.add("teacher FLOPs")
    header = [name for name in _COLUMNS if name not in left_out]
    return header, [[row[name] for name in header] for row in rows]


def _row(name: str, found: dict[str, Any]) -> dict[str, str]:
    return {
        "model": name,
        "blocks": str(found["layers"]),
        "params": short(found["parameters"]),
        "tokens": short(found["tokens"] + found.get("tokens_before", 0)) if "tokens" in found else "",
        "FLOPs": f"{found['flops'] + found.get('flops_before', 0):.2g}" if "flops" in found else "",
        "teacher FLOPs": _teacher_flops(found),
        "val. loss": with_error(found["val_loss"], found["val_loss_se"]),
        "gap": with_error(found["gap"], found["gap_se"], sign=True) if "gap" in found else "",
        "matched": ("yes" if found["matched"] else "no") if "matched" in found else "",
        "tokens/s": f"{found['tokens_per_second']:,.0f}" if "tokens_per_second" in found else "",
    }


def _teacher_flops(found: dict[str, Any]) -> str:
    """A teacher's, named apart; those of stored outputs are spent once for all that learn from them."""
    if "teacher_flops" not in found:
        return ""
    shared = " (shared)" if found["teacher_outputs"] == "stored" else ""
    return f"{found['teacher_flops'] + found.get('teacher_flops_before', 0):.2g}{shared}"
