"""What an analysis found, in sentences and tables. Pure functions of analysis.json."""

from typing import Any

from inheritune.report.analysis_measures import Measure, all_measures, head_figure, written
from inheritune.report.notation import duration, many, short, spans


def analysis_verdict(model: dict[str, Any], label: str) -> str:
    """Which layers are lazy, how many heads have collapsed, and which blocks were selected for what reason."""
    lazy, heads = model["lazy_layers"], _heads(model)
    if lazy is None:
        text = f"{label}: which layers are lazy is not known: {_no_attention(model)}."
    else:
        seen = sum(block["attention"] is not None for block in model["blocks"])
        of = many(seen, "layer") if seen == model["layers"] else f"the {many(seen, 'layer')} with attention"
        found = f"{len(lazy)} of {of} {'is' if len(lazy) == 1 else 'are'} lazy ({spans(lazy)})"
        text = f"{label}: {found if lazy else f'none of {of} is lazy'}"
        text += f", and {model['collapsed_share']:.0%} of {many(heads, 'head')}"
        text += f" {'has' if heads == 1 else 'have'} collapsed."
    chosen = model["selection"]
    if chosen:
        kept = f"{len(chosen['blocks'])} of {model['layers']} blocks, {spans(sorted(chosen['blocks']))}"
        text += f" Chosen ({chosen['choose']}): {kept}; {chosen['reason'].rstrip('.')}."
    return text


def _heads(model: dict[str, Any]) -> int:
    return sum(len(block["attention"]["heads"]) for block in model["blocks"] if block["attention"])


def _no_attention(model: dict[str, Any]) -> str:
    return str(model["no_attention"] or "no block gives attention weights").rstrip(".")


def what_is_missing(measures: list[Measure], model: dict[str, Any], label: str) -> list[str]:
    """A sentence for each curve that some or all blocks lack, so that an empty place in a chart is understood."""
    sentences = []
    for measure in measures:
        for curve in measure.curves:
            missing = [block["block"] for block in model["blocks"] if curve.read(block) is None]
            what = f"{measure.title}{f' ({curve.label})' if curve.label else ''}"
            where = "" if len(missing) == len(model["blocks"]) else f" for {_blocks(missing)}"
            if missing:
                sentences.append(f"{label}: {what} was not measured{where}.")
    return sentences


def attention_missing(model: dict[str, Any], label: str) -> list[str]:
    """Which blocks give no attention weights, and which have fewer heads than others."""
    without = [block["block"] for block in model["blocks"] if block["attention"] is None]
    if len(without) == len(model["blocks"]):
        return [f"{label}: no figures of attention: {_no_attention(model)}."]
    sentences = []
    if without:
        sentences.append(f"{label}: {_blocks(without)} without attention weights, so nothing is drawn there.")
    heads = {block["block"]: len(block["attention"]["heads"]) for block in model["blocks"] if block["attention"]}
    for count in sorted(set(heads.values()) - {max(heads.values())}):
        fewer = [block for block, found in heads.items() if found == count]
        sentences.append(
            f"{label}: {_blocks(fewer)} with {many(count, 'head')} where others have {max(heads.values())}."
        )
    return sentences


def _blocks(numbers: list[int]) -> str:
    return f"{'block' if len(numbers) == 1 else 'blocks'} {spans(numbers)}"


def models_table(models: list[dict[str, Any]], labels: list[str]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a model."""
    header = ["model", "blocks", "params", "loss", "lazy layers", "lazy groups", "collapsed heads", "analysed in"]
    rows = []
    for model, label in zip(models, labels, strict=True):
        known = model["lazy_layers"] is not None
        groups = ", ".join(spans(group) for group in model["lazy_groups"] or [])
        rows.append([
            label, str(model["layers"]), short(model["parameters"]), written(model["loss"], ".3f"),
            (spans(model["lazy_layers"]) or "none") if known else "not known",
            (groups or "none") if known else "not known",
            f"{model['collapsed_share']:.0%} of {_heads(model)}" if known else "not known",
            duration(sum(found or 0 for found in model["seconds"].values())),
        ])  # fmt: skip
    return header, rows


def layers_table(model: dict[str, Any], taus: list[float]) -> tuple[list[str], list[list[str]]]:
    """Header and a row a block. A dash stands for what was not measured; what no block has is left out."""
    columns = [(curve.column, [written(curve.read(block), curve.form) for block in model["blocks"]])
               for measure in all_measures(taus) for curve in measure.curves]  # fmt: skip
    means = [(title, [_mean_of_heads(block, key, taus[0]) for block in model["blocks"]])
             for title, key in (("sink", "sink"), ("entropy", "entropy"))]  # fmt: skip
    collapsed = ("collapsed", [_collapsed(block) for block in model["blocks"]])
    place = len(taus) + 1  # behind MaxRank and AvgMass
    columns[place:place] = [*means, collapsed]
    columns = [(title, cells) for title, cells in columns if any(cell != "–" for cell in cells)]
    notes = _notes(model)
    if any(notes):
        columns.insert(0, ("note", notes))
    header = ["block", *(title for title, _ in columns)]
    rows = [
        [str(block["block"]), *(cells[place] for _, cells in columns)] for place, block in enumerate(model["blocks"])
    ]
    return header, rows


def _mean_of_heads(block: dict[str, Any], key: str, tau: float) -> str:
    if not block["attention"]:
        return "–"
    found = [head_figure(head, key, tau)["mean"] for head in block["attention"]["heads"]]
    return f"{sum(found) / len(found):.2f}"


def _collapsed(block: dict[str, Any]) -> str:
    if not block["attention"]:
        return "–"
    heads = block["attention"]["heads"]
    return f"{sum(head['collapsed'] for head in heads)} of {len(heads)}"


def _notes(model: dict[str, Any]) -> list[str]:
    lazy, chosen = model["lazy_layers"] or [], model["selection"]
    order = {found["block"]: number for number, found in enumerate(chosen["dropped"], 1)} if chosen else {}
    notes = []
    for block in model["blocks"]:
        said = ["lazy"] if block["block"] in lazy else []
        if chosen:
            kept = block["block"] in chosen["blocks"]
            place = f" {order[block['block']]}." if block["block"] in order else ""
            said.append("kept" if kept else f"dropped{place}")
        notes.append(", ".join(said))
    return notes


def dropped_table(model: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and a row for each block that the selection left away, in that order. auto alone measures the losses."""
    dropped = model["selection"]["dropped"]
    if any(found["loss"] is None for found in dropped):
        return ["", "block dropped"], [[str(number), str(found["block"])] for number, found in enumerate(dropped, 1)]
    rows = [
        [str(number), str(found["block"]), f"{found['increase']:+.3f}", f"{found['loss']:.3f}"]
        for number, found in enumerate(dropped, 1)
    ]
    return ["", "block dropped", "change of the loss", "loss then"], rows
