"""An analysis as people read it: verdict, labels, tables, and what is missing. Pure functions of results."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inheritune.redaction import without_folders
from inheritune.report.figures import COLOURS
from inheritune.report.measures import Measure, all_measures, written
from inheritune.report.notation import many, short, spans
from inheritune.report.page import Table
from inheritune.results import Analysis, AnalyzedModel, Attention
from inheritune.runlog import duration


@dataclass(frozen=True)
class AnalysisFolder:
    """The folder of an analysis."""

    folder: Path
    analysis: Analysis

    @classmethod
    def read(cls, folder: Path) -> "AnalysisFolder":
        """Read a folder. Raises InputError where analysis.json is of another version, DamagedFile for damage."""
        return cls(folder, Analysis.read(folder / "analysis.json"))

    @property
    def title(self) -> str:
        """The page's title."""
        return f"Which layers work: {', '.join(model.name for model in labelled(self.analysis.models))}"

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """A verdict for each model, with the colour of the model in the charts."""
        return verdicts_of(labelled(self.analysis.models))


def verdicts_of(models: Sequence[AnalyzedModel]) -> list[tuple[str, str]]:
    """A verdict for each model, with the colour of the model in the charts."""
    return [(COLOURS[number % len(COLOURS)], analysis_verdict(model)) for number, model in enumerate(models)]


def labelled(models: Sequence[AnalyzedModel], prefix: str = "") -> list[AnalyzedModel]:
    """The models with different names, which begin with `prefix`: the path where two have one name, with a number
    where that is the same too.
    """
    names = [model.name for model in models]
    names = [without_folders((names.count(model.name) > 1 and model.path) or model.name) for model in models]
    names = [f"{name} ({number})" if names.count(name) > 1 else name for number, name in enumerate(names, 1)]
    return [model.model_copy(update={"name": prefix + name}) for model, name in zip(models, names, strict=True)]


def analysis_verdict(model: AnalyzedModel) -> str:
    """Which layers are lazy, how many heads have collapsed, and which blocks were selected for what reason."""
    lazy, heads = model.lazy_layers, sum(len(attention.heads) for attention in _attentions(model))
    if lazy is None:
        text = f"{model.name}: which layers are lazy is not known: {_no_attention(model)}."
    else:
        seen = len(_attentions(model))
        of = many(seen, "layer") if seen == model.layers else f"the {many(seen, 'layer')} with attention"
        which = f"{len(lazy)} of {of} {'is' if len(lazy) == 1 else 'are'} lazy ({spans(lazy)})"
        text = f"{model.name}: {which if lazy else f'none of {of} is lazy'}"
        text += f", and {model.collapsed_share:.0%} of {many(heads, 'head')}"
        text += f" {'has' if heads == 1 else 'have'} collapsed."
    if model.selection is not None:
        chosen = model.selection
        kept = f"{len(chosen.blocks)} of {model.layers} blocks, {spans(sorted(chosen.blocks))}"
        text += f" Chosen ({chosen.choose}): {kept}; {chosen.reason.rstrip('.')}."
    return text


def _attentions(model: AnalyzedModel) -> list[Attention]:
    return [block.attention for block in model.blocks if block.attention]


def _no_attention(model: AnalyzedModel) -> str:
    return (model.no_attention or "no block gives attention weights").rstrip(".")


def about_text(analysis: Analysis) -> str:
    """The text of an analysis, and what the terms mean, in sentences."""
    text, tau = analysis.text, analysis.tau[0]
    several = text.sequences > 1
    sentences = [
        f"{many(text.sequences, 'sequence')} of {text.sequence_length} tokens from {without_folders(text.source)};"
        f" losses on {text.loss_sequences} of them, in nats a token.",
        "± is one standard error over sequences." if several else "One sequence has no standard error.",
        f"A head's rank is the least number of singular directions that hold {tau:.4g} (tau) of its attention matrix's"
        " squared norm, averaged over sequences; a head has collapsed when its rank is below"
        f" {analysis.collapsed_below:g}.",
    ]
    if len(analysis.tau) > 1:
        sentences.append(f"Lazy and collapsed go by tau {tau:g}.")
    return " ".join(sentences)


def what_is_missing(measures: Sequence[Measure], models: Sequence[AnalyzedModel]) -> list[str]:
    """A sentence for each curve that some or all blocks lack, which explains gaps in a chart."""
    sentences = []
    for model in models:
        for measure in measures:
            for curve in measure.curves:
                missing = [block.block for block in model.blocks if curve.read(block) is None]
                what = f"{measure.title}{f' ({curve.label})' if curve.label else ''}"
                where = "" if len(missing) == len(model.blocks) else f" for {_blocks(missing)}"
                if missing:
                    sentences.append(f"{model.name}: {what} was not measured{where}.")
    return sentences


def attention_missing(models: Sequence[AnalyzedModel]) -> list[str]:
    """Which blocks give no attention weights, and which have fewer heads than others."""
    sentences = []
    for model in models:
        without = [block.block for block in model.blocks if block.attention is None]
        if len(without) == len(model.blocks):
            sentences.append(f"{model.name}: no figures of attention: {_no_attention(model)}.")
            continue
        if without:
            sentences.append(f"{model.name}: {_blocks(without)} without attention weights, so nothing is drawn there.")
        heads = {block.block: len(block.attention.heads) for block in model.blocks if block.attention}
        most = max(heads.values())
        for count in sorted(set(heads.values()) - {most}):
            fewer = [block for block, number in heads.items() if number == count]
            sentences.append(f"{model.name}: {_blocks(fewer)} with {many(count, 'head')} where others have {most}.")
    return sentences


def _blocks(numbers: list[int]) -> str:
    return f"{'block' if len(numbers) == 1 else 'blocks'} {spans(numbers)}"


def models_table(models: Sequence[AnalyzedModel]) -> Table:
    """A row a model."""
    header = ["model", "blocks", "params", "loss", "lazy layers", "lazy groups", "collapsed heads", "analysed in"]
    rows = []
    for model in models:
        known = ["not known"] * 3
        if model.lazy_layers is not None:
            groups = ", ".join(spans(group) for group in model.lazy_groups or [])
            heads = sum(len(attention.heads) for attention in _attentions(model))
            known = [spans(model.lazy_layers) or "none", groups or "none", f"{model.collapsed_share:.0%} of {heads}"]
        rows.append([
            model.name, str(model.layers), short(model.parameters), written(model.loss, ".3f"), *known,
            duration(sum(seconds or 0 for seconds in model.seconds.values())),
        ])  # fmt: skip
    return Table(header, rows)


def layers_table(model: AnalyzedModel, taus: list[float]) -> Table:
    """A row a block. A dash: not measured. Columns without any figure are excluded."""
    curves = [curve for measure in all_measures(taus) for curve in measure.curves]
    columns = [curve.column for curve in curves]
    columns[len(taus) + 1 : len(taus) + 1] = ["sink", "entropy", "collapsed"]  # behind MaxRank and AvgMass
    rows = []
    for block in model.blocks:
        cells = {"block": str(block.block), "note": _note(block.block, model)}
        cells |= {one.column: written(figure, one.form) for one in curves if (figure := one.read(block)) is not None}
        if block.attention:
            heads = block.attention.heads
            for key in ("sink", "entropy"):
                cells[key] = f"{sum(getattr(head, key).mean for head in heads) / len(heads):.2f}"
            cells["collapsed"] = f"{sum(head.collapsed for head in heads)} of {len(heads)}"
        rows.append(cells)
    return Table.of(["block", "note", *columns], rows, missing="–")


def _note(block: int, model: AnalyzedModel) -> str:
    """Whether a block is lazy, and kept or dropped by a choice."""
    words, chosen = ["lazy"] if block in (model.lazy_layers or []) else [], model.selection
    if chosen:
        order = {one.block: f" {number}." for number, one in enumerate(chosen.dropped, 1)}
        words.append("kept" if block in chosen.blocks else f"dropped{order.get(block, '')}")
    return ", ".join(words)
