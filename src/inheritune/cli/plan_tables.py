"""A plan for people, as tables on standard output."""

from collections.abc import Sequence
from typing import Any

from inheritune import report as reports
from inheritune.cli.tables import table_of
from inheritune.runlog import PlainConsole

_SUMS = ("least", "most")
_WIDE = 100  # columns of a terminal that has room for all of the models' table


def show_costs(plan: dict[str, Any], title: str) -> None:
    """The whole plan, top to bottom: trainings, memory, disk, devices, what fits, warnings, what is not counted."""
    console = PlainConsole()
    reference = plan["reference"]
    console.print(f"{title}: {reference['name']}, {reference['blocks']} blocks. From the config alone; nothing is run.")
    if "recovery" in plan:
        console.print(f"\nrecovery: {plan['recovery']['kind']}. {' '.join(plan['recovery']['reasons'])}")
    _trainings(console, plan)
    _memory(console, plan)
    _disk(console, plan)
    _devices(console, plan)
    if "fit" in plan:
        _fit(console, plan)
    for sentence in plan["warnings"]:
        console.print(f"\nwarning: {sentence}")
    console.print("\nNot counted. " + " ".join(f"{line[0].upper()}{line[1:]}." for line in plan["left_out"]))


def _table(console: PlainConsole, title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    console.print()
    console.print(title)
    shown = table_of(names, rows)
    shown.padding = (0, 2 if console.width >= _WIDE else 1, 0, 0)
    console.print(shown)


def _trainings(console: PlainConsole, plan: dict[str, Any]) -> None:
    several = any(each["seeds"] > 1 for each in plan["trainings"])
    taught = any(each["teacher"] for each in plan["trainings"])
    left_out = {*(() if several else ("seeds",)), *(() if taught else ("teacher",))}
    if console.width < _WIDE and len(left_out) < 2:
        left_out |= {"embed.", "a block"}
    rows = [_training(each) for each in plan["trainings"]]
    names = [name for name in rows[0] if name not in left_out]
    total = plan["flops"]
    apart = total["least"] != total["most"]
    for key in _SUMS:
        if apart or key == "most":
            flops = {"FLOP": f"{total[key]['models']:.2e}", "teacher": f"{total[key]['teachers']:.2e}"}
            rows.append(dict.fromkeys(names, "") | {"": f"all, {key}" if apart else "all"} | flops)
    seeds = " of all seeds" if several else ""
    title = f"Models. FLOP: training and all validation{seeds}; causal attention not halved"
    _table(console, title, names, [[row[name] for name in names] for row in rows])
    for sentence in plan["rounded_down"]:
        console.print(f"Rounded down: {sentence}")
    if any("least" not in each["counts"] for each in plan["trainings"]):
        console.print("* only where the rounds before do not match the reference")
    if any(each["teacher"] and each["teacher"]["outputs"] == "stored" for each in plan["trainings"]):
        console.print(
            "+ stored outputs of a teacher are computed once for all that share them; after it: its head, at each use"
        )


def _training(each: dict[str, Any]) -> dict[str, str]:
    parameters, teacher = each["parameters"], each["teacher"]
    smallest, largest = (reports.short(select(parameters["blocks"])) for select in (min, max))
    if teacher is None:
        teaching = ""
    elif teacher["outputs"] == "stored":
        teaching = f"{teacher['flops']:.2e} +"
        if teacher["head_flops"]:
            teaching += f" {teacher['head_flops'] * each['seeds']:.1e}"
    else:
        teaching = f"{teacher['flops'] * each['seeds']:.2e}"
    return {
        "": each["name"] + ("" if "least" in each["counts"] else " *"),
        "blocks": str(each["blocks"]),
        "params": reports.short(parameters["total"]),
        "embed.": reports.short(parameters["embedding"]),
        "a block": smallest if smallest == largest else f"{smallest}-{largest}",
        "GFLOP/tok": f"{each['flops_per_token'] / 1e9:.4g}",
        "tokens": reports.short(each["tokens"]) if each["steps"] != 0 else "-",
        "seeds": str(each["seeds"]),
        "FLOP": f"{(each['flops'] + each['evaluation_flops']) * each['seeds']:.2e}",
        "teacher": teaching,
    }


def _memory(console: PlainConsole, plan: dict[str, Any]) -> None:
    parts = ["weights", "gradients", "states", "activations", "logits", "working"]
    parts += ["teacher"] if any(each["teacher"] for each in plan["memory"]) else []
    rows = []
    for each in plan["memory"]:
        devices = "1" if each["devices"] == 1 else f"{each['devices']} FSDP"
        figures = [_gigabytes(each[part]) for part in [*parts, "total"]]
        rows.append([each["precision"], devices, str(each["micro_batch"]), *figures])
    short_names = {"gradients": "grads", "activations": "activ.", "working": "work"}
    names = ("precision", "devices", "seqs", *(short_names.get(part, part) for part in parts), "GB")
    least = "" if plan["memory_is_whole"] else "; at least, as activations and logits are not known"
    length = f"{plan['sequence_length']:,}"
    title = f"Memory of a device for {plan['memory_of']}, GB. seqs: sequences of {length} at once{least}"
    _table(console, title, names, rows)


def _disk(console: PlainConsole, plan: dict[str, Any]) -> None:
    disk = plan["disk"]
    data = "unknown" if disk["data"] is None else _gigabytes(disk["data"])
    taught = ["teachers"] if disk["most"]["teachers"] else []
    parts = ["models", "checkpoints", "being_written", *taught, "total"]
    least, most = ([data, *(_gigabytes(disk[key][part]) for part in parts)] for key in _SUMS)
    rows = [["", *least]] if least == most else [["least", *least], ["most", *most]]
    names = ("", "tokens", "models", "checkpoints", "one being written", *taught, "GB")
    _table(console, "Disk, GB", names, rows)


def _devices(console: PlainConsole, plan: dict[str, Any]) -> None:
    several = any(each["hours"]["least"] != each["hours"]["most"] for each in plan["devices"])
    rows = []
    precisions: dict[str, list[str]] = {}
    for each in plan["devices"]:
        precisions.setdefault(each["precision"], []).append(each["name"])
        row = [
            ("" if each["devices"] == 1 else f"{each['devices']} x ") + each["name"], str(each["micro_batch"]),
            _gigabytes(each["needs"]), f"{_gigabytes(each['memory'])}{' ' if each['fits'] else '!'}",
            "measured" if each["utilisation"] is None else "{:.0%}-{:.0%}".format(*each["utilisation"]),
            _range(each["hours"]["least"]),
        ]  # fmt: skip
        rows.append([*row, *([_range(each["hours"]["most"])] if several else []), _range(each["price"]["most"])])
    hours = ("hours, least", "hours, most") if several else ("hours",)
    _table(console, "Devices (!: does not fit)", ("device", "seqs", "GB", "of GB ", "of peak", *hours, "dollars"), rows)
    computed = "; ".join(f"{precision} on {', '.join(names)}" for precision, names in precisions.items())
    console.print(
        f"Assumed: the share of its peak that a device reaches (--rate), and prices (--price). Peaks are of {computed}"
    )


def _fit(console: PlainConsole, plan: dict[str, Any]) -> None:
    fit, hours = plan["fit"], plan["fit"]["hours"]
    ways = {name: str(number) for number, name in enumerate(fit["most_blocks"], start=1)}
    if fit["memory"] is not None:
        reach = [[f"{ways[name]}  {name}", str(most) if most else "none"] for name, most in fit["most_blocks"].items()]
        title = f"What fits into {fit['usable']:.0%} of {_gigabytes(fit['memory'])} GB"
        _table(console, title, ("way", "most blocks"), reach)
    if not fit["rows"]:
        console.print("No number of blocks fits.")
        return
    devices = list(fit["rows"][0]["tokens"]) if hours is not None else []
    rows = [
        [
            str(row["blocks"]), reports.short(row["parameters"]), ways[row["settings"]], str(row["micro_batch"]),
            *(reports.short(row["tokens"][name][0]) for name in devices),
        ]
        for row in fit["rows"]
    ]  # fmt: skip
    lasts = "" if hours is None else f"; tokens that {hours:g} hours last for, at the lowest expected rate"
    seqs = f"sequences at once (seqs, of {fit['batch_sequences']} a step)"
    title = f"By number of blocks: the first way that fits, {seqs}{lasts}"
    _table(console, title, ("blocks", "params", "way", "seqs", *devices), rows)


def _gigabytes(number: float) -> str:
    value = number / 1e9
    return f"{value:.1f}" if value >= 0.05 or number == 0 else f"{value:.1g}"


def _range(pair: Sequence[float]) -> str:
    low, high = map(_amount, pair)
    return low if low == high else f"{low}-{high}"


def _amount(value: float) -> str:
    if value >= 10 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 0.01 else "<0.01"
